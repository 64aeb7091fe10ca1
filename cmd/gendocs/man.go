package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"ublk/cmd"
)

// date is that of the manual's last revision, so that pages do not change with
// the day on which they are built.
const date = "2026-11-22"

// page is a manual page in the man macros of roff.
type page struct{ b strings.Builder }

func newPage(title string) *page {
	p := &page{}
	fmt.Fprintf(&p.b, ".\\\" Written by gendocs; do not edit.\n.TH %s 8 %s \"ublk %s\" \"System Administration\"\n.nh\n.ad l\n",
		strings.ToUpper(escape(title)), date, cmd.Version)
	return p
}

func (p *page) bytes() []byte { return []byte(p.b.String()) }

// section starts a section.
func (p *page) section(title string) { fmt.Fprintf(&p.b, ".SH %s\n", title) }

// text writes paragraphs, which empty lines part. Lines that start with two
// spaces stay as they are.
func (p *page) text(text string) {
	inBlock, first := false, true
	for line := range strings.Lines(strings.Trim(text, "\n")) {
		line = strings.TrimSuffix(line, "\n")
		block := strings.HasPrefix(line, "  ")
		if block != inBlock {
			p.b.WriteString(map[bool]string{true: ".RS 2\n.nf\n", false: ".fi\n.RE\n"}[block])
			inBlock = block
		}
		switch {
		case line == "" && !first:
			p.b.WriteString(".PP\n")
		case block:
			p.b.WriteString(leading(escape(line[2:])) + "\n")
		case line != "":
			p.b.WriteString(leading(escape(line)) + "\n")
		}
		first = false
	}
	if inBlock {
		p.b.WriteString(".fi\n.RE\n")
	}
}

// paragraph is a text apart from what comes before it.
func (p *page) paragraph(text string) {
	p.b.WriteString(".PP\n")
	p.text(text)
}

// item is a term with its explanation.
func (p *page) item(term, text string) {
	fmt.Fprintf(&p.b, ".TP\n%s\n%s\n", term, leading(escape(text)))
}

func bold(text string) string   { return `\fB` + escape(text) + `\fR` }
func italic(text string) string { return `\fI` + escape(text) + `\fR` }

// escape makes text safe for roff: a minus that can be copied, no commands.
func escape(text string) string {
	return strings.NewReplacer(`\`, `\e`, "-", `\-`, "^", `\(ha`, "~", `\(ti`, "`", `\(ga`, "…", "...", "→", `\(->`).Replace(text)
}

// leading keeps a line from being taken for a request.
func leading(line string) string {
	if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
		return `\&` + line
	}
	return line
}

// commandPage is the page of one command.
func commandPage(root, c *cobra.Command) []byte {
	p := newPage("ublk-" + c.Name())
	p.section("NAME")
	fmt.Fprintf(&p.b, "ublk\\-%s \\- %s\n", escape(c.Name()), escape(c.Short))
	p.section("SYNOPSIS")
	p.synopsis(c.UseLine())
	if len(c.Aliases) > 0 {
		p.paragraph("Other names: " + strings.Join(c.Aliases, ", "))
	}
	p.section("DESCRIPTION")
	p.text(capital(description(c)))
	p.options(c)
	if c.Example != "" {
		p.section("EXAMPLES")
		p.text(c.Example)
	}
	p.exitStatus()
	p.section("SEE ALSO")
	p.seeAlso(root, c.Name())
	return p.bytes()
}

func description(c *cobra.Command) string {
	if c.Long != "" {
		return c.Long
	}
	return c.Short + "."
}

func capital(text string) string { return strings.ToUpper(text[:1]) + text[1:] }

// synopsis sets the words of a usage line: what is typed as it is in bold.
func (p *page) synopsis(line string) {
	var words []string
	for i, word := range strings.Fields(line) {
		switch {
		case i < 2, strings.HasPrefix(word, "-"), strings.ToUpper(word) != word:
			words = append(words, bold(word))
		default:
			words = append(words, italic(word))
		}
	}
	fmt.Fprintf(&p.b, "%s\n", strings.Join(words, " "))
}

// options lists the options in the order of their names.
func (p *page) options(c *cobra.Command) {
	p.section("OPTIONS")
	c.InitDefaultHelpFlag()
	c.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		term := bold("--" + f.Name)
		if f.Shorthand != "" {
			term = bold("-"+f.Shorthand) + ", " + term
		}
		switch {
		case value != "" && f.NoOptDefVal != "":
			term += "[=" + italic(value) + "]"
			usage += " (without a value: " + f.NoOptDefVal + ")"
		case value != "":
			term += " " + italic(value)
		}
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" {
			usage += " (default " + f.DefValue + ")"
		}
		// What a colon follows is the type of disk that the option is for.
		if kind, _, ok := strings.Cut(usage, ": "); !ok || strings.Contains(kind, " ") {
			usage = capital(usage)
		}
		p.item(term, usage+".")
	})
	p.paragraph("In the names of options - and _ are the same.")
}

func (p *page) exitStatus() {
	p.section("EXIT STATUS")
	for _, e := range cmd.ExitCodes() {
		p.item(bold(e.Code), capital(e.Meaning)+".")
	}
}

// seeAlso names the introduction and the other commands of the same group.
func (p *page) seeAlso(root *cobra.Command, self string) {
	names := []string{"ublk"}
	group := ""
	for _, c := range root.Commands() {
		if c.Name() == self {
			group = c.GroupID
		}
	}
	for _, c := range root.Commands() {
		if documented(c) && c.Name() != self && (self == "" || c.GroupID == group) {
			names = append(names, "ublk-"+c.Name())
		}
	}
	if self == "" {
		names = names[1:]
	}
	slices.Sort(names)
	for i, name := range names {
		names[i] = bold(name) + "(8)"
	}
	fmt.Fprintf(&p.b, "%s\n", strings.Join(names, ",\n"))
}
