package tui

import (
	"fmt"
	"slices"
	"time"
)

// sign is how a tag is drawn. The sign itself tells; colour only repeats it.
type sign struct {
	sign  string
	look  attr
	short string // for the legend below the tags
	rare  bool   // the legend has it only when it is to be seen
	help  string
}

func cellSigns() []sign {
	return []sign{
		{"█", red, "≥1s", false, "a server of ours has had it for a second or longer"},
		{"▓", yellow, "≥10ms", false, "for 10 milliseconds or longer"},
		{"▪", green, "<10ms", false, "for less; of other servers: for a time that is not known"},
		{"▫", cyan, "waits", true, "waits for a server"},
		{"◦", plain, "in the kernel", true, "in the kernel, before or after the server"},
		{"·", faint, "free", false, "free"},
	}
}

// signOf is the index in cellSigns.
func signOf(t *Tag) int {
	switch {
	case t.Holder == Parked:
		return 3
	case t.Age >= time.Second:
		return 0
	case t.Age >= 10*time.Millisecond:
		return 1
	case t.Holder == Allocated:
		return 4
	}
	return 2
}

func ageLook(age time.Duration) attr {
	switch {
	case age >= time.Second:
		return red
	case age >= 10*time.Millisecond:
		return yellow
	}
	return plain
}

// pane is what there is to say about what is selected: all lines of it.
func (m *Model) pane() []string {
	lines := m.paneLines()
	texts := make([]string, len(lines))
	for i, l := range lines {
		texts[i] = l.String()
	}
	return texts
}

func (m *Model) paneLines() []*line {
	d := m.devices.selected()
	if d == nil {
		return nil
	}
	var lines []*line
	if story := d.Story(); story != "" {
		lines = append(lines, m.line(bold|m.deviceLook(d), fmt.Sprintf(" %d  %s", d.ID, story)))
	}
	if m.isGhost(d.ID) {
		return append(lines, m.line(faint, fmt.Sprintf(" %d  is gone", d.ID)))
	}
	if m.level != devices {
		q := m.queues.selected()
		if q == nil {
			return lines
		}
		return m.legend(append(lines, m.queuePane(d, q)...), *q)
	}
	known := m.seen.some && m.seen.id == d.ID
	switch {
	case !known:
		return append(lines, m.line(faint, fmt.Sprintf(" %d  …", d.ID)))
	case len(m.detail.Queues) == 0 && m.detail.Missing != "":
		return append(lines, m.line(faint, fmt.Sprintf(" %d  %s", d.ID, m.detail.Missing)))
	case len(m.detail.Queues) == 0:
		return lines
	}
	for i := range m.detail.Queues {
		lines = append(lines, m.queuePane(d, &m.detail.Queues[i])...)
	}
	return m.legend(lines, m.detail.Queues...)
}

// queuePane is a queue in words and its tags as cells.
func (m *Model) queuePane(d *Device, q *Queue) []*line {
	l := m.style.line(m.width)
	l.add(bold, fmt.Sprintf(" %d/q%d", d.ID, q.Index)).add(plain, "  thread "+tidText(q.TID)+"  cpu "+cpuText(q.CPU)+"   ")
	if q.InFlight < 0 {
		l.add(faint, "tags are not known: "+m.detail.Missing)
		return []*line{l}
	}
	l.add(plain, fmt.Sprintf("%d/%d in flight", q.InFlight, q.Depth))
	if q.Oldest >= 0 {
		l.add(plain, "   oldest ").add(ageLook(q.Oldest), ageText(q.Oldest))
	}
	return append([]*line{l}, m.cells(q)...)
}

func tidText(tid int) string {
	if tid <= 0 {
		return "-"
	}
	return fmt.Sprint(tid)
}

func cpuText(cpu float64) string {
	if cpu < 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", cpu)
}

// cellsPerLine spreads depth tags evenly over as few lines as a screen allows,
// in eights that can be counted.
func cellsPerLine(depth, width int) int {
	lines := max((depth+width-1)/width, 1)
	even := ((depth+lines-1)/lines + 7) &^ 7
	return min(even, width)
}

// cells are the tags of a queue, one cell each, as many lines as they need.
func (m *Model) cells(q *Queue) []*line {
	kinds := make([]int, q.Depth)
	free := len(cellSigns()) - 1
	for i := range kinds {
		kinds[i] = free
	}
	for i := range q.Tags {
		if t := &q.Tags[i]; t.Tag >= 0 && t.Tag < q.Depth {
			kinds[t.Tag] = signOf(t)
		}
	}
	chosen := -1
	if t := m.tags.selected(); m.level == tags && t != nil {
		chosen = t.Tag
	}
	var lines []*line
	signs := cellSigns()
	each := cellsPerLine(q.Depth, m.width-2)
	for from := 0; from < q.Depth; from += each {
		l := m.style.line(m.width).pad(plain, 1)
		for tag := from; tag < min(from+each, q.Depth); tag++ {
			s := signs[kinds[tag]]
			if tag == chosen {
				s.look |= reverse
			}
			l.add(s.look, s.sign)
		}
		lines = append(lines, l)
	}
	return lines
}

// legend explains the cells of these queues, behind the last of them where there
// is room.
func (m *Model) legend(lines []*line, of ...Queue) []*line {
	signs := cellSigns()
	seen := make([]bool, len(signs))
	if !slices.ContainsFunc(of, func(q Queue) bool { return q.InFlight >= 0 }) {
		return lines
	}
	for _, q := range of {
		for i := range q.Tags {
			seen[signOf(&q.Tags[i])] = true
		}
	}
	legend := m.style.line(m.width).pad(plain, 1)
	for i, s := range signs {
		if !s.rare || seen[i] {
			legend.add(plain, "  ").add(s.look, s.sign).add(faint, " "+s.short)
		}
	}
	last := len(lines) - 1
	if last < 0 || lines[last].used+legend.used > m.width {
		return append(lines, legend)
	}
	lines[last].join(legend)
	return lines
}

// line is a line of one look, to be added to.
func (m *Model) line(a attr, text string) *line { return m.style.line(m.width).add(a, text) }
