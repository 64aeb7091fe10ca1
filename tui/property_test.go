package tui

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
)

func randomDevices(r *rand.Rand) []Device {
	var all []Device
	for id := range 12 {
		if r.IntN(3) == 0 {
			continue
		}
		d := Device{ID: id, Queues: r.IntN(4), Depth: r.IntN(70), InFlight: r.IntN(70) - 1, Latency: NoLatency(), Errors: int64(r.IntN(3)) - 1}
		d.State = []string{"", "DEAD", "LIVE", "QUIESCED", "FAIL_IO"}[r.IntN(5)]
		d.Health = []string{"", "healthy", "stalled", "parked", "waiting", "failing", "wedged", "dead"}[r.IntN(8)]
		d.Server = Server{PID: r.IntN(3) * 4000, Alive: r.IntN(2) == 0, Command: []string{"", "kublk", "漢字\x1b[31m\n\x00", "\xff"}[r.IntN(4)], State: "RSDT\x00"[r.IntN(5)], CPU: r.Float64()*3 - 1}
		d.For, d.AtLeast = time.Duration(r.IntN(1e12)), r.IntN(2) == 0
		if r.IntN(5) == 0 {
			d.Silent = time.Duration(r.IntN(1e10))
		}
		if r.IntN(2) == 0 {
			d.Rates = &Rates{Reads: r.ExpFloat64() * 1e5, WriteBytes: r.ExpFloat64() * 1e10, ReadTime: Unknown}
		}
		all = append(all, d)
	}
	return all
}

func randomDetail(r *rand.Rand, f focus) Detail {
	d := Detail{ID: f.id}
	if r.IntN(6) == 0 {
		d.Missing = "no reason"
	}
	for i := range r.IntN(5) {
		q := Queue{Index: i, Depth: r.IntN(300), InFlight: r.IntN(20) - 1, Oldest: Unknown, CPU: Unknown, LastCPU: Unknown, Latency: NoLatency()}
		for tag := range q.Depth {
			if r.IntN(4) == 0 {
				q.Tags = append(q.Tags, Tag{Tag: tag + r.IntN(2), Op: "READ", Bytes: 512, Age: time.Duration(r.IntN(3e9)) - 1, Holder: []Holder{Allocated, Delivered, InDriver, Parked, Lost}[r.IntN(5)]})
			}
		}
		d.Queues = append(d.Queues, q)
	}
	return d
}

// TestProperty presses keys at random between random samples. Whatever comes:
// no panic, the screen fits, and what is selected is there.
func TestProperty(t *testing.T) {
	names := []string{"ctrl+z", "ctrl+l", "left", "right", "x", "1", "l"}
	for _, b := range bindings() {
		names = append(names, b.keys...)
	}
	names = slices.DeleteFunc(names, func(k string) bool { return k == "q" || k == "ctrl+c" })
	seeds := 60
	if testing.Short() {
		seeds = 15
	}
	for seed := range seeds {
		r := rand.New(rand.NewPCG(uint64(seed), 1))
		m := New(t.Context(), nil, Options{ASCII: seed%2 == 0, Colour: seed%3 == 0})
		d := &driver{t, m}
		var pressed []string
		for range 150 {
			switch r.IntN(8) {
			case 0:
				m.Update(tea.WindowSizeMsg{Width: r.IntN(140), Height: r.IntN(40)})
			case 1:
				m.Update(sampleMsg{Snapshot{Devices: randomDevices(r), Notes: []string{"no debugfs"}[:r.IntN(2)]}, detailMsg{randomDetail(r, m.focus()), m.focus()}})
			default:
				name := names[r.IntN(len(names))]
				pressed = append(pressed, name)
				m.Update(keyOf(name))
			}
			if m.asking && r.IntN(2) == 0 {
				m.Update(detailMsg{randomDetail(r, m.focus()), m.focus()})
			}
			d.checkSize()
			checkSelection(t, m)
			if t.Failed() {
				t.Fatalf("seed %d, keys %q", seed, pressed)
			}
		}
	}
}

func checkSelection(t *testing.T, m *Model) {
	t.Helper()
	d := m.devices.selected()
	switch {
	case m.devices.size() > 0 && (d == nil || d.ID != m.devices.chosen):
		t.Errorf("selected device %v, want %d", d, m.devices.chosen)
	case m.level > devices && d == nil:
		t.Error("the queues of no device")
	}
	if q := m.queues.selected(); q != nil && q.Index != m.queues.chosen {
		t.Errorf("selected queue %d, want %d", q.Index, m.queues.chosen)
	}
	if tag := m.tags.selected(); tag != nil && tag.Tag != m.tags.chosen {
		t.Errorf("selected tag %d, want %d", tag.Tag, m.tags.chosen)
	}
}
