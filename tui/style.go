package tui

import (
	"strings"
	"unicode/utf8"
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
	'↑': '^', '↓': 'v', '▾': 'v', '▴': '^', '⏎': '<', '≥': '>',
}

const reset = "\x1b[m"

// sequence begins a look; "" is the plain one.
func (s style) sequence(a attr) string {
	var codes []string
	for _, c := range []struct {
		attr   attr
		code   string
		colour bool
	}{{bold, "1", false}, {faint, "90", true}, {reverse, "7", false}, {red, "31", true}, {yellow, "33", true}, {green, "32", true}, {cyan, "36", true}} {
		if a&c.attr != 0 && (s.colour || !c.colour) {
			codes = append(codes, c.code)
		}
	}
	if len(codes) == 0 {
		return ""
	}
	return "\x1b[" + strings.Join(codes, ";") + "m"
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
	begun string // the sequence that is in force, "" for none
}

func (s style) line(width int) *line { return &line{style: s, width: width} }

// add appends text, cut off where the line ends.
func (l *line) add(a attr, text string) *line {
	text = clip(text, l.width-l.used)
	if text == "" {
		return l
	}
	l.used += utf8.RuneCountInString(text)
	l.begin(l.sequence(a))
	l.out.WriteString(l.glyphs(text))
	return l
}

// begin changes the look of what follows.
func (l *line) begin(sequence string) {
	if sequence == l.begun {
		return
	}
	if l.begun != "" {
		l.out.WriteString(reset)
	}
	l.out.WriteString(sequence)
	l.begun = sequence
}

func (l *line) String() string {
	l.begin("")
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
