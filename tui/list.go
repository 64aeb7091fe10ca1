package tui

import (
	"cmp"
	"slices"
	"unicode/utf8"

	"ublk/internal/table"
)

// list is a table on the screen with a selected row. The selection belongs to
// the thing in the row, not to its place.
type list[T any] struct {
	columns []column[T]
	key     func(*T) int  // what tells things apart, not negative
	look    func(*T) attr // of a row
	rows    []T           // sorted
	chosen  int           // key of the selected row
	at      int           // its place in rows; 0 if there are none
	top     int           // first row on the screen
	sort    int           // index in columns
	hidden  []bool        // columns that the screen last had no room for
	reverse bool
}

// set replaces the rows. The selection stays with its thing, or, when that is
// gone, with its place.
func (l *list[T]) set(rows []T) {
	l.rows = rows
	l.arrange()
}

func (l *list[T]) arrange() {
	column := l.columns[l.sort]
	slices.SortStableFunc(l.rows, func(a, b T) int {
		x, y := column.Value(a), column.Value(b)
		if x.IsNull() || y.IsNull() { // the unknown comes last in either order
			return cmp.Or(table.Compare(x, y), cmp.Compare(l.key(&a), l.key(&b)))
		}
		order := table.Compare(x, y)
		if column.largest != l.reverse {
			order = -order
		}
		return cmp.Or(order, cmp.Compare(l.key(&a), l.key(&b)))
	})
	at := slices.IndexFunc(l.rows, func(row T) bool { return l.key(&row) == l.chosen })
	if at < 0 {
		at = l.at
	}
	l.choose(at)
}

// choose selects the row at a place, or the nearest one.
func (l *list[T]) choose(at int) {
	l.at = max(min(at, len(l.rows)-1), 0)
	if len(l.rows) > 0 {
		l.chosen = l.key(&l.rows[l.at])
	}
}

// selected is the selected row, nil if there are none.
func (l *list[T]) selected() *T {
	if len(l.rows) == 0 {
		return nil
	}
	return &l.rows[l.at]
}

func (l *list[T]) move(by int) { l.choose(l.at + by) }
func (l *list[T]) size() int   { return len(l.rows) }
func (l *list[T]) flip()       { l.reverse = !l.reverse; l.arrange() }

// sortNext sorts by the next column (1) that is on the screen, or the one
// before (-1).
func (l *list[T]) sortNext(by int) {
	for range l.columns {
		l.sort, l.reverse = (l.sort+by+len(l.columns))%len(l.columns), false
		if l.hidden == nil || !l.hidden[l.sort] {
			break
		}
	}
	l.arrange()
}

// draw draws the heading and as many rows as there is room for.
func (l *list[T]) draw(s style, width, height int) []string {
	room := max(height-1, 0)
	l.top = max(min(l.top, l.at, len(l.rows)-room), l.at-room+1, 0)
	rows := l.rows[min(l.top, len(l.rows)):min(l.top+room, len(l.rows))]
	cells := make([][]string, len(rows))
	for i, row := range rows {
		cells[i] = make([]string, len(l.columns))
		for j, c := range l.columns {
			cells[i][j] = c.Value(row).Text(false)
		}
	}
	shown := l.layout(cells, width-1)
	l.hidden = slices.Repeat([]bool{true}, len(l.columns))
	for _, p := range shown {
		l.hidden[p.column] = false
	}
	lines := []string{l.heading(s, shown, width)}
	for i, row := range rows {
		lines = append(lines, l.row(s, shown, cells[i], l.look(&row), l.top+i == l.at, width))
	}
	return lines
}

// placed is a column with its place on the screen.
type placed struct{ column, gap, width int }

// widest bounds the last column's claim to room: it shows what it can of more.
const widest = 32

// layout decides which columns are shown and how wide. Where there is not
// enough room the columns first move together, then leave, the last rank first.
func (l *list[T]) layout(cells [][]string, width int) []placed {
	last := len(l.columns) - 1
	content := make([]int, len(l.columns))
	for j, c := range l.columns {
		content[j] = utf8.RuneCountInString(l.title(j))
		for _, row := range cells {
			content[j] = max(content[j], utf8.RuneCountInString(row[j]))
		}
		if j == last {
			content[j] = min(content[j], widest)
		}
		content[j] = max(content[j], c.tight)
		if c.sparse && !slices.ContainsFunc(l.rows, func(row T) bool { return !c.Value(row).IsNull() }) {
			content[j] = 0
		}
	}
	wanted := slices.Clone(content)
	for j, c := range l.columns {
		if content[j] > 0 {
			wanted[j] = max(content[j], c.width)
		}
	}
	for rank := l.maxRank() + 1; ; rank-- {
		for _, widths := range [][]int{wanted, content} {
			shown, total := l.place(widths, rank)
			if total <= width || rank == 0 {
				if end := &shown[len(shown)-1]; end.column == last {
					end.width = max(width-(total-end.width), 0)
				}
				return shown
			}
		}
	}
}

// place lays out the columns below a rank; those of rank 0 always, and that
// by which rows are sorted, those of no width never.
func (l *list[T]) place(widths []int, rank int) (shown []placed, total int) {
	for j, c := range l.columns {
		if (c.rank < rank || c.rank == 0 || j == l.sort) && widths[j] > 0 {
			shown = append(shown, placed{j, c.gap, widths[j]})
			total += c.gap + widths[j]
		}
	}
	return shown, total
}

func (l *list[T]) maxRank() int {
	rank := 0
	for _, c := range l.columns {
		rank = max(rank, c.rank)
	}
	return rank
}

// title is a column's heading, with an arrow if the rows are sorted by it. The
// first column's order is the one that needs no arrow.
func (l *list[T]) title(column int) string {
	name := l.columns[column].Name
	switch {
	case column != l.sort || column == 0 && !l.reverse:
		return name
	case l.columns[column].largest != l.reverse:
		return name + "▾"
	}
	return name + "▴"
}

func (l *list[T]) heading(s style, shown []placed, width int) string {
	out := s.line(width).pad(bold, 1)
	for _, p := range shown {
		out.pad(bold, out.used+p.gap).add(bold, fit(l.title(p.column), p.width, l.columns[p.column].Right))
	}
	return out.String()
}

func (l *list[T]) row(s style, shown []placed, cells []string, look attr, selected bool, width int) string {
	out := s.line(width)
	mark := " "
	if selected {
		mark, look = "▸", look|reverse
	}
	out.add(look, mark)
	for _, p := range shown {
		out.add(look, fit("", p.gap, false)+fit(cells[p.column], p.width, l.columns[p.column].Right))
	}
	return out.pad(look, width).String()
}
