package tui

import (
	"fmt"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
)

// level is how far the screen has gone in.
type level int

const (
	devices level = iota // all devices
	queues               // the queues of one
	tags                 // the tags of one queue
)

// binding is something that keys do. The last line of the screen and the help
// are made of the same bindings that Update obeys.
type binding struct {
	keys  []string
	shown string // the keys for people; "" is told with the binding before
	short string // for the last line; "" is not there
	help  string
	rank  int // the highest leaves a narrow last line first
	do    func(*Model) tea.Cmd
}

// bindings are all there are. No key changes a device.
func bindings() []binding {
	return []binding{
		{[]string{"up", "k"}, "↑↓", "select", "move (k j)", 3, func(m *Model) tea.Cmd { return m.move(-1) }},
		{[]string{"down", "j"}, "", "", "", 0, func(m *Model) tea.Cmd { return m.move(1) }},
		{[]string{"pgup", "ctrl+b"}, "pgup", "", "move by a page (pgdn)", 0, func(m *Model) tea.Cmd { return m.move(-m.page()) }},
		{[]string{"pgdown", "ctrl+f"}, "", "", "", 0, func(m *Model) tea.Cmd { return m.move(m.page()) }},
		{[]string{"home", "g"}, "g", "", "go to the first (G: the last)", 0, func(m *Model) tea.Cmd { return m.move(-m.view().size()) }},
		{[]string{"end", "G"}, "", "", "", 0, func(m *Model) tea.Cmd { return m.move(m.view().size()) }},
		{[]string{"enter", "right", "l"}, "⏎", "open", "go in: the queues of a device, the tags of a queue", 2, (*Model).open},
		{[]string{"esc", "left", "h", "backspace"}, "esc", "back", "go back; at the devices, show all again", 4, (*Model).back},
		{[]string{"s", ">"}, "s", "sort", "sort by the next column (> <; S: the other way round)", 5, func(m *Model) tea.Cmd { return m.sort(func(l rowList) { l.sortNext(1) }) }},
		{[]string{"<"}, "", "", "", 0, func(m *Model) tea.Cmd { return m.sort(func(l rowList) { l.sortNext(-1) }) }},
		{[]string{"S"}, "", "", "", 0, func(m *Model) tea.Cmd { return m.sort((rowList).flip) }},
		{[]string{"/"}, "/", "filter", "show only devices with this text in them", 6, (*Model).startFilter},
		{[]string{"p", "space"}, "p", "pause", "freeze the screen (space)", 7, (*Model).pause},
		{[]string{"+", "="}, "+/-", "interval", "look less often, more often", 8, func(m *Model) tea.Cmd { return m.pace(1) }},
		{[]string{"-"}, "", "", "", 0, func(m *Model) tea.Cmd { return m.pace(-1) }},
		{[]string{"a"}, "a", "", "hide devices on which nothing happens, or show them", 0, (*Model).toggleIdle},
		{[]string{"?"}, "?", "help", "this help", 1, func(m *Model) tea.Cmd { m.helping = true; return nil }},
		{[]string{"ctrl+l"}, "^L", "", "draw the screen anew", 0, func(*Model) tea.Cmd { return tea.ClearScreen }},
		{[]string{"ctrl+z"}, "^Z", "", "back to the shell until fg", 0, func(*Model) tea.Cmd { return tea.Suspend }},
		{[]string{"q", "ctrl+c"}, "q", "quit", "quit (^C)", 0, func(*Model) tea.Cmd { return tea.Quit }},
	}
}

// footer is the last line of the screen: what fits of the bindings.
func (s style) footer(width int) string {
	all := slices.DeleteFunc(bindings(), func(b binding) bool { return b.short == "" })
	for {
		var out strings.Builder
		for i, b := range all {
			if i > 0 {
				out.WriteString("  ")
			}
			out.WriteString(s.keyName(b.shown) + " " + b.short)
		}
		if text := out.String(); len(all) == 1 || len([]rune(text)) <= width {
			return text
		}
		last := 0
		for i, b := range all {
			if b.rank > all[last].rank {
				last = i
			}
		}
		all = slices.Delete(all, last, last+1)
	}
}

// KeyHelp lists the keys for a manual, one indented line each, in ASCII.
func KeyHelp() string {
	var out strings.Builder
	for _, b := range bindings() {
		if b.shown == "" {
			continue
		}
		name := b.shown
		if strings.ContainsFunc(name, func(r rune) bool { return r > '~' }) {
			name = b.keys[0]
		}
		fmt.Fprintf(&out, "  %-6s %s\n", name, b.help)
	}
	return out.String()
}

// press obeys a key.
func (m *Model) press(key tea.KeyPressMsg) tea.Cmd {
	name := key.String()
	switch {
	case m.helping && name != "ctrl+c" && name != "ctrl+z":
		m.helping = false
		return nil
	case m.typing:
		return m.typeFilter(key)
	}
	for _, b := range m.bindings {
		if slices.Contains(b.keys, name) {
			return b.do(m)
		}
	}
	return nil
}

// paces are the intervals that + and - choose from.
func paces() []time.Duration {
	return []time.Duration{
		100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second,
		5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute,
	}
}

// pace goes to the next longer (1) or shorter (-1) interval.
func (m *Model) pace(by int) tea.Cmd {
	steps := paces()
	at, exact := slices.BinarySearch(steps, m.interval)
	if by > 0 && exact || by < 0 {
		at += by
	}
	m.interval = steps[max(min(at, len(steps)-1), 0)]
	return m.tick()
}

func (m *Model) startFilter() tea.Cmd {
	if m.level != devices {
		return nil
	}
	m.typing, m.before = true, m.filter
	return nil
}

// typeFilter is a key while the filter is typed; the list follows every one.
func (m *Model) typeFilter(key tea.KeyPressMsg) tea.Cmd {
	switch name := key.String(); name {
	case "ctrl+c":
		return tea.Quit
	case "ctrl+z":
		return tea.Suspend
	case "enter":
		m.typing = false
	case "esc":
		m.typing, m.filter = false, m.before
	case "ctrl+u":
		m.filter = ""
	case "backspace":
		if n := len(m.filter); n > 0 {
			m.filter = m.filter[:n-1]
		}
	default:
		if len(key.Text) == 1 && key.Text >= " " && key.Text <= "~" && len(m.filter) < maxFilter {
			m.filter += key.Text
		}
	}
	return m.refresh()
}

// maxFilter is the longest filter; no name of anything is longer.
const maxFilter = 64
