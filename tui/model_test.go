package tui

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
)

func TestUpdate(t *testing.T) {
	for _, test := range []struct {
		keys string
		want string // level, device, queue, tag of the selection
	}{
		{"", "0 0 0 0"},
		{"j", "0 1 0 0"},
		{"j j j j j j", "0 10 -1 -1"},
		{"down down up", "0 1 0 0"},
		{"G", "0 10 -1 -1"},
		{"G g", "0 0 0 0"},
		{"pgdown", "0 10 -1 -1"},
		{"enter", "1 0 0 0"},
		{"enter j j", "1 0 2 100"},
		{"enter j j enter", "2 0 2 100"},
		{"enter j j enter G", "2 0 2 113"},
		{"enter j enter esc", "1 0 1 0"},
		{"enter j enter esc esc", "0 0 1 0"},
		{"enter enter enter enter", "2 0 0 0"},
		{"esc esc", "0 0 0 0"},
		{"/ l o o p enter j", "0 2 0 4"},
		{"/ x x esc", "0 0 0 0"},
		{"/ 4 5 0 2 enter", "0 1 0 0"},
		{"/ 4 5 0 2 enter esc", "0 1 0 0"},
		{"S", "0 0 0 0"},
		{"S g", "0 10 -1 -1"},
		{"s s s s s g", "0 1 0 0"}, // by IOPS
		{"a G", "0 3 0 0"},         // without the dead one
		{"a a G", "0 10 -1 -1"},
		{"? j j", "0 1 0 0"}, // the first key only ends the help
	} {
		d := start(t, demo(), Options{}, 80, 24)
		d.keys(strings.Fields(test.keys)...)
		m := d.m
		if got := fmt.Sprint(int(m.level), m.devices.chosen, m.queues.at*boolInt(m.queues.size() > 0)-boolInt(m.queues.size() == 0), chosenTag(m)); got != test.want {
			t.Errorf("%q: at %s, want %s", test.keys, got, test.want)
		}
		d.checkSize()
	}
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

func chosenTag(m *Model) int {
	if t := m.tags.selected(); t != nil {
		return t.Tag
	}
	return -1
}

func TestPace(t *testing.T) {
	d := start(t, demo(), Options{Interval: 1500 * time.Millisecond}, 80, 24)
	for _, step := range []struct {
		key  string
		want time.Duration
	}{
		{"+", 2 * time.Second}, {"+", 5 * time.Second}, {"-", 2 * time.Second}, {"-", time.Second}, {"-", 500 * time.Millisecond},
		{"-", 200 * time.Millisecond}, {"-", 100 * time.Millisecond}, {"-", 100 * time.Millisecond}, {"+", 200 * time.Millisecond},
	} {
		d.keys(step.key)
		if d.m.interval != step.want {
			t.Fatalf("interval %v after %s, want %v", d.m.interval, step.key, step.want)
		}
	}
	for range 20 {
		d.m.pace(1)
	}
	if d.m.interval != time.Minute {
		t.Errorf("longest interval %v", d.m.interval)
	}
}

// TestSortVisible sorts by no column that a narrow screen has no room for.
func TestSortVisible(t *testing.T) {
	d := start(t, demo(), Options{}, 40, 10)
	for range 20 {
		d.screen()
		d.keys("s")
		if screen := d.screen(); !strings.ContainsAny(screen, "▾▴") && d.m.devices.sort != 0 {
			t.Fatalf("sorted by %s:\n%s", d.m.devices.columns[d.m.devices.sort].Name, screen)
		}
	}
}

// TestSortBack goes through the columns in either direction.
func TestSortBack(t *testing.T) {
	d := start(t, demo(), Options{}, 120, 40)
	d.screen()
	last := len(d.m.devices.columns) - 1
	for _, test := range []struct {
		key  string
		want int
	}{{"<", last}, {"<", last - 1}, {">", last}, {"s", 0}} {
		if d.keys(test.key); d.m.devices.sort != test.want {
			t.Errorf("%s: sorted by column %d, not %d", test.key, d.m.devices.sort, test.want)
		}
	}
}

// TestSelectionFollows sorts by what changes: the selected device stays.
func TestSelectionFollows(t *testing.T) {
	s := demo()
	d := start(t, s, Options{}, 80, 24)
	d.keys("s", "s", "s", "s", "s", "s", "g") // by IOPS: 1, 0, …
	s.snapshot.Devices = slices.Clone(s.snapshot.Devices)
	s.snapshot.Devices[0].Rates = &Rates{Reads: 5e6}
	d.sample()
	if d.m.devices.chosen != 1 || d.m.devices.at != 1 {
		t.Errorf("selected %d in row %d", d.m.devices.chosen, d.m.devices.at)
	}
}

func TestVanished(t *testing.T) {
	s := demo()
	d := start(t, s, Options{}, 80, 24)
	d.keys("j", "enter")
	all := s.snapshot.Devices
	s.snapshot.Devices = slices.Concat(all[:1], all[2:])
	for range ghostSamples {
		d.sample()
		if d.m.devices.chosen != 1 || d.m.level != queues || !d.m.isGhost(1) {
			t.Fatalf("device %d at level %d", d.m.devices.chosen, d.m.level)
		}
		if screen := d.screen(); !strings.Contains(screen, "device 1 · null · gone") {
			t.Errorf("no word of it being gone:\n%s", screen)
		}
	}
	d.sample()
	if d.m.devices.chosen != 2 || d.m.level != devices || d.m.isGhost(1) {
		t.Errorf("afterwards: device %d at level %d", d.m.devices.chosen, d.m.level)
	}
	// One that comes back is no ghost.
	d.sample()
	s.snapshot.Devices = all
	d.sample()
	if len(d.m.ghosts) != 0 || d.m.devices.size() != len(all) {
		t.Errorf("%d ghosts, %d rows", len(d.m.ghosts), d.m.devices.size())
	}
}

func TestPause(t *testing.T) {
	s := demo()
	d := start(t, s, Options{}, 80, 24)
	d.keys("p")
	before := d.screen()
	s.snapshot.Devices = nil
	d.sample()
	if d.screen() != before || !strings.Contains(before, "PAUSED") {
		t.Error("the screen is not frozen")
	}
	d.keys("space")
	if d.m.devices.size() == len(demo().snapshot.Devices) && len(d.m.ghosts) == 0 {
		t.Error("the screen stays frozen")
	}
}

// TestCloseLook asks for what is selected, and not again for the same.
func TestCloseLook(t *testing.T) {
	s := demo()
	d := start(t, s, Options{}, 80, 24)
	d.keys("j", "enter", "enter", "j", "esc", "esc")
	want := []focus{{true, 0, -1}, {true, 1, -1}, {true, 1, 0}, {true, 1, -1}}
	if !slices.Equal(s.asked, want) {
		t.Errorf("asked for %v, want %v", s.asked, want)
	}
}

// TestHelpHasAll finds every binding in the help, and no two with one key.
func TestHelpHasAll(t *testing.T) {
	d := start(t, demo(), Options{}, 80, 24)
	d.keys("?")
	help := d.screen()
	seen := map[string]bool{}
	for _, b := range bindings() {
		if b.shown != "" && !strings.Contains(help, b.help) {
			t.Errorf("no %q in the help", b.help)
		}
		for _, k := range b.keys {
			if seen[k] {
				t.Errorf("key %s does two things", k)
			}
			seen[k] = true
		}
	}
}

// screenWriter looks for texts in what the program draws.
type screenWriter struct {
	want  string
	seen  bytes.Buffer
	found chan struct{}
}

func (s *screenWriter) Write(p []byte) (int, error) {
	s.seen.Write(p)
	if s.want != "" && bytes.Contains(s.seen.Bytes(), []byte(s.want)) {
		s.want = ""
		close(s.found)
	}
	return len(p), nil
}

// TestProgram runs the program without a terminal.
func TestProgram(t *testing.T) {
	for _, how := range []string{"key", "context"} {
		r, w := io.Pipe()
		ctx, cancel := context.WithCancel(t.Context())
		out := &screenWriter{want: "QUIESCED", found: make(chan struct{})}
		done := make(chan error, 1)
		started := time.Now()
		go func() {
			done <- Run(ctx, r, out, []string{"TERM=xterm-256color"}, demo(), Options{Interval: time.Minute})
		}()
		select {
		case <-out.found:
		case err := <-done:
			t.Fatalf("ended early: %v", err)
		case <-time.After(10 * time.Second):
			t.Fatalf("nothing is drawn: %q", out.seen.String())
		}
		t.Logf("first frame with devices after %v", time.Since(started))
		if how == "key" {
			go func() { _, _ = w.Write([]byte("jq")) }()
		} else {
			cancel()
		}
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("%s: %v", how, err)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s does not end it", how)
		}
		if !bytes.Contains(out.seen.Bytes(), []byte("\x1b[?1049l")) || !bytes.Contains(out.seen.Bytes(), []byte("\x1b[?25h")) {
			t.Errorf("%s: the screen is not restored: %q", how, out.seen.String())
		}
		cancel()
	}
}

// BenchmarkFrame is one sample taken in and drawn, with 500 devices.
func BenchmarkFrame(b *testing.B) {
	s := &scene{}
	for id := range 500 {
		d := demo().snapshot.Devices[id%4]
		d.ID = id
		s.snapshot.Devices = append(s.snapshot.Devices, d)
	}
	m := New(b.Context(), s, Options{Colour: true})
	m.Update(tea.WindowSizeMsg{Width: 120, Height: 40})
	b.ReportAllocs()
	for b.Loop() {
		m.Update(sampleMsg{snapshot: s.snapshot})
		m.View()
	}
}
