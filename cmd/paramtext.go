package cmd

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"ublk/ctrl"
)

// paramField is one parameter: its group and name as get-params -J has them.
type paramField struct {
	Group, Name, Value string
}

// paramFields lists the parameters of the groups that are present, in the order
// of the kernel's structure, which is that of their JSON.
func paramFields(p *ctrl.Params) ([]paramField, error) {
	document, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(bytes.NewReader(document))
	decoder.UseNumber()
	var fields []paramField
	group, name := "", ""
	for depth := 0; ; {
		token, err := decoder.Token()
		if err != nil || token == nil && depth == 0 {
			return fields, ignoreEnd(err)
		}
		switch value := token.(type) {
		case json.Delim:
			if value == '{' {
				depth++
			} else {
				depth--
			}
			name = ""
			if depth == 1 {
				group = ""
			}
		default:
			switch text := fmt.Sprint(value); {
			case depth == 1 && group == "":
				group = text
			case depth == 1: // null: the group is absent
				group = ""
			case name == "":
				name = text
			default:
				fields = append(fields, paramField{group, name, text})
				name = ""
			}
		}
	}
}

func ignoreEnd(err error) error {
	if err == nil || err.Error() == "EOF" {
		return nil
	}
	return err
}

// parameters prints one line a group.
func (p *infoText) parameters(d *detail) {
	if d.Params == nil {
		if d.ParamsError != nil {
			p.section("Parameters")
			p.line("", "unknown, as the device does not answer: "+plainError(d.ParamsError))
		}
		return
	}
	fields, err := paramFields(d.Params)
	if err != nil || len(fields) == 0 {
		return
	}
	p.section("Parameters")
	var words []string
	for i, f := range fields {
		words = append(words, f.Name+"="+f.Value)
		if i+1 == len(fields) || fields[i+1].Group != f.Group {
			p.line(f.Group, wrap(words, 90)...)
			words = nil
		}
	}
}

// wrap joins words to lines of at most width characters.
func wrap(words []string, width int) []string {
	var lines []string
	line := ""
	for _, w := range words {
		if line != "" && len(line)+1+len(w) > width {
			lines = append(lines, line)
			line = ""
		}
		line = strings.TrimSpace(line + " " + w)
	}
	return append(lines, line)
}

// allParams has every group that can be set.
func allParams() ctrl.Params {
	return ctrl.Params{
		Basic: &ctrl.BasicParams{}, Discard: &ctrl.DiscardParams{}, Zoned: &ctrl.ZonedParams{},
		DMAAlign: &ctrl.DMAAlignParams{}, Segment: &ctrl.SegmentParams{}, Integrity: &ctrl.IntegrityParams{},
	}
}

// setParam changes one parameter, "[GROUP.]NAME=VALUE", as get-params names it.
// A group that is absent comes with its first parameter.
func setParam(p *ctrl.Params, assignment string) error {
	left, value, ok := strings.Cut(assignment, "=")
	if !ok {
		return usagef("%q is not NAME=VALUE", assignment)
	}
	group, name, hasGroup := strings.Cut(left, ".")
	if !hasGroup {
		group, name = "", left
	}
	full := allParams()
	known, err := paramFields(&full)
	if err != nil {
		return err
	}
	var found []string
	for _, f := range known {
		if f.Name == name && (!hasGroup || f.Group == group) {
			found = append(found, f.Group)
		}
	}
	switch {
	case len(found) == 0:
		return hinted(usagef("no parameter %q", left), "They are named as in: ublk get-params")
	case len(found) > 1:
		return usagef("parameter %q is in %s: write GROUP.%s", name, strings.Join(found, " and "), name)
	}
	number, err := paramValue(value)
	if err != nil {
		return usagef("parameter %s: %w", name, err)
	}
	patch := fmt.Sprintf(`{%q:{%q:%s}}`, found[0], name, number)
	if err := json.Unmarshal([]byte(patch), p); err != nil {
		return usagef("parameter %s: %q does not fit", name, value)
	}
	return nil
}

// paramValue is a number, decimal or hexadecimal, or true or false, as JSON.
func paramValue(text string) (string, error) {
	if text == "true" || text == "false" {
		return text, nil
	}
	n, err := strconv.ParseUint(text, 0, 64)
	if err != nil {
		return "", errors.New("a number, true or false")
	}
	return strconv.FormatUint(n, 10), nil
}
