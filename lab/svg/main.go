// Command svg draws a terminal's screen, as `tmux capture-pane -eN` prints it on
// standard input, as a picture on standard output.
package main

import (
	"bufio"
	"encoding/xml"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A cell in pixels, and the room around all of them.
const (
	cellWidth, cellHeight = 8.4, 18
	margin                = 14
)

const (
	ink   = "#d5d9e0"
	paper = "#181b21"
)

// colours are those of SGR 30 to 37 and of 90 to 97.
var colours = [16]string{
	"#3b4048", "#ff6b6b", "#8fd16f", "#f0c05a", "#6cb2ff", "#d78bff", "#56d0d8", ink,
	"#7d8590", "#ff8a8a", "#a9e58c", "#ffd67f", "#92c6ff", "#e3a8ff", "#7fe3ea", "#ffffff",
}

// look is how text is drawn.
type look struct {
	colour        string // "": ink
	bold, reverse bool
}

// run is text of one look.
type run struct {
	look
	text string
}

func main() {
	if err := draw(os.Stdout, os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "svg:", err)
		os.Exit(1)
	}
}

func draw(w io.Writer, screen io.Reader) error {
	var rows [][]run
	columns := 0
	now := look{} // tmux goes on with a look in the next line
	in := bufio.NewScanner(screen)
	for in.Scan() {
		row := now.parse(in.Text())
		width := 0
		for _, r := range row {
			width += utf8.RuneCountInString(r.text)
		}
		rows, columns = append(rows, row), max(columns, width)
	}
	if err := in.Err(); err != nil {
		return err
	}
	out := bufio.NewWriter(w)
	width, height := float64(columns)*cellWidth+2*margin, len(rows)*cellHeight+2*margin
	fmt.Fprintf(out, `<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%d" viewBox="0 0 %.1f %d" font-family="ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,monospace" font-size="14">
<rect width="100%%" height="100%%" rx="8" fill="%s"/>
`, width, height, width, height, paper)
	for y, row := range rows {
		drawRow(out, margin+y*cellHeight, row)
	}
	fmt.Fprintln(out, "</svg>")
	return out.Flush()
}

// drawRow sets every run at its cells: the widths of a font's signs differ.
func drawRow(w io.Writer, y int, row []run) {
	drawBars(w, y, row)
	x := float64(margin)
	for _, r := range row {
		lead := len(r.text) - len(strings.TrimLeft(r.text, " "))
		if text := strings.TrimSpace(r.text); text != "" {
			fill, weight := r.ink(), ""
			if r.reverse {
				fill = paper
			}
			if r.bold {
				weight = ` font-weight="bold"`
			}
			fmt.Fprintf(w, `<text x="%.1f" y="%.1f" textLength="%.1f" lengthAdjust="spacingAndGlyphs" xml:space="preserve" fill="%s"%s>`,
				x+float64(lead)*cellWidth, float64(y)+0.76*cellHeight, widthOf(text), fill, weight)
			_ = xml.EscapeText(w, []byte(text))
			fmt.Fprintln(w, "</text>")
		}
		x += widthOf(r.text)
	}
}

// drawBars draws what is behind reversed text, in one piece where it is one.
func drawBars(w io.Writer, y int, row []run) {
	x := float64(margin)
	for i := 0; i < len(row); {
		first, width := row[i], 0.0
		for i < len(row) && row[i].reverse == first.reverse && row[i].ink() == first.ink() {
			width += widthOf(row[i].text)
			i++
		}
		if first.reverse {
			fmt.Fprintf(w, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", x, y, width, cellHeight, first.ink())
		}
		x += width
	}
}

func widthOf(text string) float64 { return float64(utf8.RuneCountInString(text)) * cellWidth }

func (l look) ink() string {
	if l.colour == "" {
		return ink
	}
	return l.colour
}

// parse parts a line where its look changes (ECMA-48, SGR). Two blanks part it,
// too, so that a column stays at its place whatever the font.
// The line begins with the look that l is, and leaves the one that it ends with.
func (l *look) parse(line string) []run {
	var runs []run
	for line != "" {
		text := line
		if start := strings.Index(line, "\x1b["); start >= 0 {
			text = line[:start]
		}
		runs = append(runs, columnsOf(*l, text)...)
		if line = line[len(text):]; line != "" {
			end := strings.IndexByte(line, 'm')
			if end < 0 {
				break
			}
			l.change(line[len("\x1b["):end])
			line = line[end+1:]
		}
	}
	return runs
}

func columnsOf(l look, text string) []run {
	var runs []run
	for text != "" {
		blanks := text[:len(text)-len(strings.TrimLeft(text, " "))]
		word := text[len(blanks):]
		if end := strings.Index(word, "  "); end >= 0 {
			word = word[:end]
		}
		runs = append(runs, run{l, blanks + word})
		text = text[len(blanks)+len(word):]
	}
	return runs
}

// change obeys the numbers of an SGR sequence.
func (l *look) change(numbers string) {
	for text := range strings.SplitSeq(numbers, ";") {
		n, _ := strconv.Atoi(text)
		switch {
		case n == 0:
			*l = look{}
		case n == 1:
			l.bold = true
		case n == 7:
			l.reverse = true
		case n == 22:
			l.bold = false
		case n == 27:
			l.reverse = false
		case n == 39:
			l.colour = ""
		case n >= 30 && n <= 37:
			l.colour = colours[n-30]
		case n >= 90 && n <= 97:
			l.colour = colours[n-90+8]
		}
	}
}
