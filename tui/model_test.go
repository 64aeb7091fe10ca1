package tui

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"

	"ublk/internal/table"
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

// TestSelectionFollows sorts by what changes: the selected device stays.
func TestSelectionFollows(t *testing.T) {
	s := demo()
	d := start(t, s, Options{}, 80, 24)
	d.keys("s", "s", "s", "s", "s", "g") // by IOPS: 1, 0, …
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
	seeds := 150
	if testing.Short() {
		seeds = 30
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

func TestBatch(t *testing.T) {
	var out bytes.Buffer
	o := BatchOptions{Interval: minInterval, Count: 2, Title: true}
	if err := Batch(t.Context(), &out, demo(), o); err != nil {
		t.Fatal(err)
	}
	samples := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n\n")
	if len(samples) != 2 || samples[0] != samples[1] {
		t.Fatalf("%d samples:\n%s", len(samples), out.String())
	}
	lines := strings.Split(samples[0], "\n")
	if len(lines) != 2+5 || !strings.HasPrefix(lines[0], "ublk top   5 devices, 2 live, 1 QUIESCED") || !strings.Contains(lines[4], "912 gone 8s · 16 held") {
		t.Errorf("sample:\n%s", samples[0])
	}
	out.Reset()
	o.ASCII = true
	if err := Batch(t.Context(), &out, demo(), o); err != nil || strings.ContainsFunc(out.String(), func(r rune) bool { return r > '~' }) {
		t.Errorf("not ASCII: %v\n%s", err, out.String())
	}
}

func TestBatchJSON(t *testing.T) {
	var out bytes.Buffer
	o := BatchOptions{Interval: minInterval, Count: 1, Only: []int{1, 10}, Table: table.Options{Format: table.JSON}}
	if err := Batch(t.Context(), &out, demo(), o); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines", len(lines))
	}
	var null, dead map[string]any
	if json.Unmarshal([]byte(lines[0]), &null) != nil || json.Unmarshal([]byte(lines[1]), &dead) != nil {
		t.Fatal(out.String())
	}
	for key, want := range map[string]any{
		"time": "2026-08-01T14:02:11Z", "id": 1.0, "state": "LIVE", "in_flight": 128.0, "iops": 1.1e6, "p99_ns": 39000.0, "errors": 3.0, "server_pid": 4502.0,
		"server_cpu": 0.9, "queues": 2.0, "name": nil, "unresponsive_seconds": nil,
	} {
		if got, there := null[key]; !there || got != want {
			t.Errorf("%s is %v, want %v", key, got, want)
		}
	}
	for key, value := range dead {
		if value == nil || slices.Contains([]string{"id", "time", "state", "health", "recovery", "queues", "depth", "server"}, key) {
			continue
		}
		t.Errorf("a dead device has %s: %v", key, value)
	}
}

func TestBatchEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Batch(ctx, io.Discard, demo(), BatchOptions{Interval: time.Hour}); err != nil {
		t.Error(err)
	}
}

func TestTables(t *testing.T) {
	if err := Devices().Check(); err != nil {
		t.Error(err)
	}
	if err := Lines(nil).Check(); err != nil {
		t.Error(err)
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
