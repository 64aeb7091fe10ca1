package tui

import (
	"image/color"
	"strings"
	"unicode/utf8"

	"charm.land/lipgloss/v2"
)

// attr is how text looks. Nothing is told by colour alone.
type attr uint16

const (
	plain attr = 0
	bold  attr = 1 << iota
	faint
	reverse
	red
	yellow
	green
	cyan
)

// style is what the terminal can show.
type style struct{ colour, ascii bool }

// asciiOf are the ASCII forms of the characters that the screen is drawn with;
// all others become question marks.
var asciiOf = map[rune]rune{
	'·': '.', '▸': '>', '─': '-', '—': '-', 'µ': 'u', '…': '~', '█': '#', '▓': '+', '▪': 'o', '▫': '=', '◦': ',', '×': 'x',
	'↑': '^', '↓': 'v', '▾': 'v', '▴': '^', '≥': '>',
}

// looks are the attributes in lipgloss' terms. What is a colour is left out
// where there is none, or none is wanted.
var looks = [...]struct {
	attr   attr
	colour bool
	add    func(lipgloss.Style) lipgloss.Style
}{
	{bold, false, func(l lipgloss.Style) lipgloss.Style { return l.Bold(true) }},
	{reverse, false, func(l lipgloss.Style) lipgloss.Style { return l.Reverse(true) }},
	{faint, true, foreground(lipgloss.BrightBlack)},
	{red, true, foreground(lipgloss.Red)},
	{yellow, true, foreground(lipgloss.Yellow)},
	{green, true, foreground(lipgloss.Green)},
	{cyan, true, foreground(lipgloss.Cyan)},
}

func foreground(c color.Color) func(lipgloss.Style) lipgloss.Style {
	return func(l lipgloss.Style) lipgloss.Style { return l.Foreground(c) }
}

// render gives text a look; the plain one changes nothing.
func (s style) render(a attr, text string) string {
	look, changed := lipgloss.NewStyle(), false
	for _, l := range looks {
		if a&l.attr != 0 && (s.colour || !l.colour) {
			look, changed = l.add(look), true
		}
	}
	if !changed {
		return text
	}
	return look.Render(text)
}

// keyName is how keys are called: by words where there are no signs for them.
func (s style) keyName(shown string) string {
	if word, ok := map[string]string{"↑↓": "jk", "⏎": "enter"}[shown]; ok && s.ascii {
		return word
	}
	return shown
}

// glyphs replaces what the terminal cannot show.
func (s style) glyphs(text string) string {
	if !s.ascii {
		return text
	}
	return strings.Map(func(r rune) rune {
		if r < utf8.RuneSelf {
			return r
		}
		if a, ok := asciiOf[r]; ok {
			return a
		}
		return '?'
	}, text)
}

// line is one line of the screen being put together. It is never wider than
// width: every character that is drawn takes one cell.
type line struct {
	style
	out   strings.Builder
	used  int
	width int
	look  attr            // of run
	run   strings.Builder // text of one look that is not in out yet
}

func (s style) line(width int) *line { return &line{style: s, width: width} }

// add appends text, cut off where the line ends.
func (l *line) add(a attr, text string) *line {
	text = clip(text, l.width-l.used)
	if text == "" {
		return l
	}
	l.used += utf8.RuneCountInString(text)
	if a != l.look {
		l.flush()
		l.look = a
	}
	l.run.WriteString(l.glyphs(text))
	return l
}

// join appends a line that there is room for.
func (l *line) join(o *line) {
	l.flush()
	l.out.WriteString(o.String())
	l.used += o.used
}

func (l *line) flush() {
	l.out.WriteString(l.render(l.look, l.run.String()))
	l.run.Reset()
}

func (l *line) String() string {
	l.flush()
	return l.out.String()
}

// pad appends blanks up to a cell.
func (l *line) pad(a attr, to int) *line {
	return l.add(a, strings.Repeat(" ", max(min(to, l.width)-l.used, 0)))
}

// right puts text at the end of the line if there is room for it.
func (l *line) right(a attr, text string) *line {
	if room := l.width - l.used - utf8.RuneCountInString(text); room >= 2 {
		l.pad(plain, l.used+room).add(a, text)
	}
	return l
}

// clip cuts text to a number of cells, the last of which then says so.
func clip(text string, cells int) string {
	if cells <= 0 {
		return ""
	}
	if utf8.RuneCountInString(text) <= cells {
		return text
	}
	runes := []rune(text)
	return string(runes[:cells-1]) + "…"
}

// fit makes text exactly that many cells wide.
func fit(text string, cells int, right bool) string {
	text = clip(text, cells)
	blanks := strings.Repeat(" ", max(cells-utf8.RuneCountInString(text), 0))
	if right {
		return blanks + text
	}
	return text + blanks
}
