package tui

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	tea "charm.land/bubbletea/v2"

	"ublk/internal/units"
)

// The smallest screen that anything is shown on.
const minWidth, minHeight = 40, 8

// View draws the screen.
func (m *Model) View() tea.View {
	v := tea.NewView(strings.Join(m.lines(), "\n"))
	v.AltScreen = true
	v.DisableBracketedPasteMode = true
	return v
}

// lines are the lines of the screen, at most height of at most width cells.
func (m *Model) lines() []string {
	if m.width < minWidth || m.height < minHeight {
		return []string{m.text(plain, fmt.Sprintf("ublk top needs %d×%d cells", minWidth, minHeight))}
	}
	if m.helping {
		return m.help()
	}
	lines := []string{m.header()}
	notes := m.notes()
	room := m.height - len(lines) - len(notes) - 1
	lines = append(lines, m.body(room)...)
	for len(lines) < m.height-len(notes)-1 {
		lines = append(lines, "")
	}
	lines = append(lines, notes...)
	return append(lines, m.bottom())
}

// text is a line of one look.
func (m *Model) text(a attr, text string) string { return m.line(a, text).String() }

func (m *Model) header() string {
	l := m.style.line(m.width)
	l.add(bold, "ublk top").add(plain, "   ")
	title := m.title()
	room := m.width - l.used - utf8.RuneCountInString(title) - 2
	right := ""
	for _, right = range m.rights() {
		if len(right) <= room {
			break
		}
	}
	l.add(plain, clip(title, m.width-l.used-len(right)-2))
	return l.right(plain, right).String()
}

// rights are what the header ends with, from what there should be room for to
// what there must be room for: nothing, unless it is out of the ordinary.
func (m *Model) rights() []string {
	clock := "--:--:--"
	if m.sampled {
		clock = m.snapshot.Time.Format("15:04:05")
	}
	switch late := time.Since(m.asked); {
	case m.paused:
		return []string{"PAUSED   " + clock, "PAUSED"}
	case m.asking && late > m.interval+lateAfter:
		waiting := "waiting " + units.FormatAge(late)
		return []string{waiting + "   " + clock, waiting}
	}
	return []string{"every " + paceText(m.interval) + "   " + clock, clock, ""}
}

// lateAfter is how long a sample may take beyond the interval before the screen says so.
const lateAfter = time.Second

func paceText(d time.Duration) string { return fmt.Sprintf("%.1fs", d.Seconds()) }

// title tells what is on the screen.
func (m *Model) title() string {
	if !m.sampled {
		return "looking for devices"
	}
	var parts []string
	switch d := m.devices.selected(); {
	case m.level == devices || d == nil:
		parts = m.counts()
	default:
		parts = append(parts, deviceTitle(d))
		if q := m.queues.selected(); m.level == tags && q != nil {
			parts = append(parts, fmt.Sprintf("queue %d", q.Index))
		}
	}
	if m.filter != "" {
		parts = append(parts, "filter "+m.filter)
	}
	if m.hideIdle {
		parts = append(parts, "idle hidden")
	}
	return strings.Join(parts, " · ")
}

func deviceTitle(d *Device) string {
	parts := []string{fmt.Sprintf("device %d", d.ID)}
	for _, part := range []string{d.Name, d.Type, d.StateText()} {
		if part != "" {
			parts = append(parts, printable(part))
		}
	}
	return strings.Join(parts, " · ")
}

// counts are the devices, and how many are how.
func (m *Model) counts() []string {
	all := m.snapshot.Devices
	count := map[string]int{}
	var order []string
	for i := range all {
		state := all[i].StateText()
		if count[state]++; count[state] == 1 {
			order = append(order, state)
		}
	}
	parts := []string{plural(len(all), "device", "devices")}
	if n := count["LIVE"]; n > 0 {
		parts = append(parts, fmt.Sprintf("%d live", n))
	}
	for _, state := range order {
		if state != "LIVE" && state != "?" {
			parts = append(parts, fmt.Sprintf("%d %s", count[state], state))
		}
	}
	return parts
}

// notes say what cannot be seen, on one line.
func (m *Model) notes() []string {
	text := strings.Join(m.snapshot.Notes, " · ")
	if text == "" {
		return nil
	}
	return []string{m.text(yellow, " "+text)}
}

// bottom is the keys, or the filter while it is typed.
func (m *Model) bottom() string {
	if m.typing {
		return m.style.line(m.width).add(bold, " /"+m.filter).add(reverse, " ").add(faint, "  "+m.style.keyName("⏎")+" keep  esc undo").String()
	}
	return m.text(faint, " "+m.style.footer(m.width-1))
}

// body is the list of the level and, below, what is selected in it.
func (m *Model) body(room int) []string {
	pane := m.pane()
	if m.view().size() == 0 {
		lines := []string{"", m.text(plain, " "+m.nothing()), ""}
		return append(lines, pane[:min(len(pane), max(room-len(lines), 0))]...)
	}
	rows := m.view().size() + 1
	if over := rows + 1 + len(pane) - room; over > 0 {
		// Both need more than there is: neither gets less than half.
		whole := len(pane)
		pane = pane[:max(whole-over, min(whole, room/2-1), 0)]
		if n := len(pane); n < whole && n > 3 && m.level == devices {
			pane[n-1] = m.text(faint, " …  "+m.style.keyName("⏎")+" shows all queues")
		}
		rows = room - 1 - len(pane)
	}
	lines := m.view().draw(m.style, m.width, rows)
	if len(pane) > 0 {
		lines = append(lines, m.text(faint, strings.Repeat("─", m.width)))
	}
	return append(lines, pane...)
}

// nothing says why the list is empty.
func (m *Model) nothing() string {
	switch {
	case !m.sampled:
		return "…"
	case m.level == tags:
		return "no request in flight on this queue"
	case m.level == queues && m.detail.Missing != "":
		return "queues are not known: " + m.detail.Missing
	case m.level == queues:
		return "no queues"
	case len(m.snapshot.Devices) > 0:
		return "no device matches; esc shows all"
	}
	return "no ublk devices; ublk add makes one"
}

func (m *Model) deviceLook(d *Device) attr {
	switch {
	case m.isGhost(d.ID):
		return faint
	case d.Silent > 0, d.Health == "stalled", d.Health == "wedged", d.Health == "failing":
		return red
	case d.Trouble():
		return yellow
	case d.Idle():
		return faint
	}
	return plain
}

func queueLook(q *Queue) attr {
	if q.InFlight == 0 {
		return faint
	}
	return plain
}

func tagLook(t *Tag) attr { return ageLook(t.Age) }

// help is the screen of keys and signs.
func (m *Model) help() []string {
	lines := []string{m.text(bold, "ublk top: keys")}
	for _, b := range m.bindings {
		if b.shown != "" {
			lines = append(lines, m.text(plain, fmt.Sprintf("  %-5s %s", m.style.keyName(b.shown), b.help)))
		}
	}
	lines = append(lines, "", m.text(bold, "Requests"))
	for _, c := range cellSigns() {
		lines = append(lines, m.style.line(m.width).add(plain, "  ").add(c.look, c.sign).add(plain, "     "+c.help).String())
	}
	lines = append(lines, "", m.text(bold, "Columns"))
	for text := range strings.Lines(ColumnHelp()) {
		lines = append(lines, m.text(plain, strings.TrimSuffix(text, "\n")))
	}
	if len(lines) > m.height-1 {
		lines = lines[:m.height-1]
	}
	return append(lines, m.text(faint, " any key goes back"))
}
