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

// on is the sequence that begins a, off the one that ends it; both "" where
// there is nothing to do.
func (s style) on(a attr) (on, off string) {
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
		return "", ""
	}
	return "\x1b[" + strings.Join(codes, ";") + "m", "\x1b[m"
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
}

func (s style) line(width int) *line { return &line{style: s, width: width} }

// add appends text, cut off where the line ends.
func (l *line) add(a attr, text string) *line {
	text = clip(text, l.width-l.used)
	if text == "" {
		return l
	}
	l.used += utf8.RuneCountInString(text)
	on, off := l.on(a)
	l.out.WriteString(on)
	l.out.WriteString(l.glyphs(text))
	l.out.WriteString(off)
	return l
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

func (l *line) String() string { return l.out.String() }

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
