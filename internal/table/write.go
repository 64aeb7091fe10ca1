package table

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Write prints the rows as the options say, in one call to w.Write. No rows is
// the heading alone, or an empty array.
func (t Table[T]) Write(w io.Writer, rows []T, o Options) error {
	columns, err := t.Select(o)
	if err != nil {
		return err
	}
	rows, err = t.Sort(rows, o.Sort)
	if err != nil {
		return err
	}
	var out []byte
	switch o.Format {
	case JSON:
		out, err = t.document(columns, rows)
	case Raw:
		out = appendRaw(nil, columns, rows, o)
	case Pairs:
		out = appendPairs(nil, columns, rows, o)
	default:
		out = appendText(nil, columns, rows, o)
	}
	if err != nil {
		return err
	}
	_, err = w.Write(out)
	return err
}

// WriteLine prints one row as a JSON object on a line of its own.
func (t Table[T]) WriteLine(w io.Writer, row T, o Options) error {
	o.Format = JSON
	columns, err := t.Select(o)
	if err != nil {
		return err
	}
	object, err := object(columns, row)
	if err != nil {
		return err
	}
	_, err = w.Write(append(object, '\n'))
	return err
}

// document is the whole JSON output, indented like lsblk's.
func (t Table[T]) document(columns []Column[T], rows []T) ([]byte, error) {
	objects := make([]json.RawMessage, len(rows))
	for i, row := range rows {
		var err error
		if objects[i], err = object(columns, row); err != nil {
			return nil, err
		}
	}
	encoded, err := encode(map[string][]json.RawMessage{t.Plural: objects})
	if err != nil {
		return nil, err
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, encoded, "", "   "); err != nil {
		return nil, fmt.Errorf("indent: %w", err)
	}
	indented.WriteByte('\n')
	return indented.Bytes(), nil
}

// object is one row with its fields in the order of the columns, which a map would lose.
func object[T any](columns []Column[T], row T) ([]byte, error) {
	out := []byte{'{'}
	for i, column := range columns {
		value, err := encode(column.Value(row).json)
		if err != nil {
			return nil, fmt.Errorf("column %s: %w", column.Name, err)
		}
		if i > 0 {
			out = append(out, ',')
		}
		out = fmt.Appendf(out, "%q:%s", column.Key, value)
	}
	return append(out, '}'), nil
}

// encode is json.Marshal without the escapes for HTML and with those for terminals.
func encode(value any) ([]byte, error) {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return nil, err
	}
	return escapeJSON(bytes.TrimRight(out.Bytes(), "\n")), nil
}

func appendText[T any](out []byte, columns []Column[T], rows []T, o Options) []byte {
	lines := make([][]string, 0, len(rows)+1)
	if !o.NoHeadings {
		lines = append(lines, headings(columns))
	}
	for _, row := range rows {
		line := make([]string, len(columns))
		for i, column := range columns {
			line[i] = column.Value(row).Text(o.Bytes)
		}
		lines = append(lines, line)
	}
	widths := make([]int, len(columns))
	for _, line := range lines {
		for i, cell := range line {
			widths[i] = max(widths[i], cells(cell))
		}
	}
	for _, line := range lines {
		for i, cell := range line {
			line[i] = pad(cell, widths[i], columns[i].Right)
		}
		out = append(out, strings.TrimRight(strings.Join(line, " "), " ")...)
		out = append(out, '\n')
	}
	return out
}

func headings[T any](columns []Column[T]) []string {
	names := make([]string, len(columns))
	for i, column := range columns {
		names[i] = column.Name
	}
	return names
}

func appendRaw[T any](out []byte, columns []Column[T], rows []T, o Options) []byte {
	if !o.NoHeadings {
		out = append(out, strings.Join(headings(columns), " ")+"\n"...)
	}
	for _, row := range rows {
		for i, column := range columns {
			if i > 0 {
				out = append(out, ' ')
			}
			cell := escape(column.Value(row).plain(o.Bytes), " ")
			if cell == "" {
				cell = "-"
			}
			out = append(out, cell...)
		}
		out = append(out, '\n')
	}
	return out
}

// appendPairs writes lines that a shell can eval: every name is a variable's and
// no value can end its quotes.
func appendPairs[T any](out []byte, columns []Column[T], rows []T, o Options) []byte {
	for _, row := range rows {
		for i, column := range columns {
			if i > 0 {
				out = append(out, ' ')
			}
			value := escape(column.Value(row).plain(o.Bytes), "\"\\`$")
			out = append(out, variable(column.Name)+`="`+value+`"`...)
		}
		out = append(out, '\n')
	}
	return out
}

// variable makes a shell variable's name of a heading: READ/s is READ_S.
func variable(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToUpper(name))
}

// cells is the width of escaped text on a terminal, one cell a rune. Wide and
// combining characters are off by one; nothing of ours has any.
func cells(text string) int { return utf8.RuneCountInString(text) }

// pad fills text up to a width with spaces, on the left if right is set.
func pad(text string, width int, right bool) string {
	space := strings.Repeat(" ", max(width-cells(text), 0))
	if right {
		return space + text
	}
	return text + space
}
