package tui

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	tea "charm.land/bubbletea/v2"
)

var update = flag.Bool("update", false, "write the golden files anew")

// scene is a sampler of devices that do not change on their own.
type scene struct {
	snapshot Snapshot
	details  map[int]Detail
	asked    []focus
}

func (s *scene) Sample(context.Context) Snapshot { return s.snapshot }

func (s *scene) Detail(_ context.Context, id, queue int) Detail {
	s.asked = append(s.asked, focus{true, id, queue})
	if d, ok := s.details[id]; ok {
		return d
	}
	return Detail{ID: id, Missing: "no such device"}
}

func span(from, to int, tag func(int) Tag) []Tag {
	var tags []Tag
	for i := from; i < to; i++ {
		t := tag(i)
		t.Tag = i
		tags = append(tags, t)
	}
	return tags
}

// demo is what the manual shows: a loop device and a null device at work, one
// that lost its server, and a foreign one that hangs.
func demo() *scene {
	ms := time.Millisecond
	latency := func(p50, p99 time.Duration) Latency { return Latency{p50, p50 * 2, p99, p99 * 2} }
	s := &scene{snapshot: Snapshot{
		Time: time.Date(2026, 8, 1, 14, 2, 11, 0, time.UTC),
		Devices: []Device{
			{ID: 0, Name: "disk-1", Type: "loop", State: "LIVE", Health: "healthy", Recovery: "reissue", Queues: 4, Depth: 128, InFlight: 37,
				Rates: &Rates{Reads: 178e3, Writes: 4e3, ReadBytes: 711 << 20, WriteBytes: 12 << 20}, Latency: latency(84*time.Microsecond, 310*time.Microsecond),
				Server: Server{PID: 4411, Command: "ublk", Alive: true, Own: true, State: 'S', CPU: 1.4}},
			{ID: 1, Type: "null", State: "LIVE", Health: "healthy", Recovery: "none", Queues: 2, Depth: 128, InFlight: 128,
				Rates: &Rates{Reads: 1.1e6, ReadBytes: 4.3 * (1 << 30)}, Latency: latency(11*time.Microsecond, 39*time.Microsecond), Errors: 3,
				Server: Server{PID: 4502, Command: "ublk", Alive: true, Own: true, State: 'R', CPU: 0.9}},
			{ID: 2, Type: "loop", State: "QUIESCED", Health: "waiting", Recovery: "requeue", Queues: 1, Depth: 128, InFlight: 16,
				Rates: &Rates{}, Latency: NoLatency(), For: 8 * time.Second, Server: Server{PID: 912, Command: "ublk", CPU: Unknown}},
			{ID: 3, State: "LIVE", Health: "stalled", Recovery: "requeue", Queues: 1, Depth: 64, InFlight: 64, Rates: &Rates{}, Latency: NoLatency(), Errors: Unknown,
				For: 12 * time.Second, Server: Server{PID: 5001, Command: "kublk", Alive: true, State: 'T', CPU: 0}},
			{ID: 10, State: "DEAD", Health: "dead", Recovery: "none", Queues: 1, Depth: 64, InFlight: Unknown, Latency: NoLatency(), Errors: Unknown,
				Server: Server{CPU: Unknown}},
		},
	}, details: map[int]Detail{}}
	own := func(i, tid int, tags []Tag) Queue {
		q := Queue{Index: i, Depth: 128, InFlight: len(tags), TID: tid, CPU: 0.35, LastCPU: i, CPUs: string(rune('0' + i)), Oldest: Unknown, Tags: tags,
			Rates: &Rates{Reads: 45e3, Writes: 1e3, ReadBytes: 178 << 20, WriteBytes: 3 << 20}, Latency: latency(84*time.Microsecond, 310*time.Microsecond)}
		for _, t := range tags {
			q.Oldest = max(q.Oldest, t.Age)
		}
		return q
	}
	held := func(age time.Duration) func(int) Tag {
		return func(i int) Tag {
			return Tag{Op: "READ", Sector: uint64(i) * 8, Bytes: 4096, Age: age + time.Duration(i)*time.Microsecond, Holder: Delivered}
		}
	}
	mixed := append(span(0, 4, held(40*time.Microsecond)), span(4, 6, held(12*ms))...)
	mixed = append(mixed, span(6, 7, held(2*time.Second))...)
	mixed = append(mixed, span(20, 22, func(int) Tag { return Tag{Age: Unknown, Holder: Allocated} })...)
	s.details[0] = Detail{ID: 0, Queues: []Queue{
		own(0, 4413, mixed), own(1, 4414, span(0, 14, held(40*time.Microsecond))), own(2, 4415, span(100, 114, held(90*time.Microsecond))), own(3, 4416, nil),
	}}
	s.details[1] = Detail{ID: 1, Queues: []Queue{own(0, 4504, span(0, 64, held(9*time.Microsecond))), own(1, 4505, span(0, 64, held(9*time.Microsecond)))}}
	parked := func(int) Tag { return Tag{Op: "WRITE", Age: Unknown, Holder: Parked} }
	foreign := func(int) Tag { return Tag{Op: "WRITE", Age: Unknown, Holder: InDriver} }
	none := Queue{CPU: Unknown, LastCPU: Unknown, Errors: Unknown, Oldest: Unknown, Latency: NoLatency()}
	q2 := none
	q2.Depth, q2.InFlight, q2.Tags = 128, 16, span(4, 20, parked)
	s.details[2] = Detail{ID: 2, Queues: []Queue{q2}}
	q3 := none
	q3.Depth, q3.InFlight, q3.Tags = 64, 64, span(0, 64, foreign)
	s.details[3] = Detail{ID: 3, Queues: []Queue{q3}}
	s.details[10] = Detail{ID: 10, Missing: "no disk, so no requests"}
	return s
}

// driver plays the part of bubbletea: it runs commands at once, but no clocks.
type driver struct {
	t testing.TB
	m *Model
}

func start(t testing.TB, s Sampler, o Options, width, height int) *driver {
	d := &driver{t, New(t.Context(), s, o)}
	d.m.after = func(time.Duration, func(time.Time) tea.Msg) tea.Cmd { return nil }
	d.send(tea.WindowSizeMsg{Width: width, Height: height})
	d.run(d.m.sample())
	return d
}

func (d *driver) send(msg tea.Msg) {
	_, cmd := d.m.Update(msg)
	d.run(cmd)
}

// run runs a command, and what its answer asks for.
func (d *driver) run(cmd tea.Cmd) {
	if cmd == nil {
		return
	}
	switch msg := cmd().(type) {
	case tea.BatchMsg:
		for _, c := range msg {
			d.run(c)
		}
	case sampleMsg, detailMsg:
		d.send(msg)
	}
}

// sample is a tick of the clock.
func (d *driver) sample() { d.run(d.m.sample()) }

// keys presses keys by their names.
func (d *driver) keys(names ...string) {
	for _, name := range names {
		d.send(keyOf(name))
	}
}

func keyOf(name string) tea.KeyPressMsg {
	special := map[string]rune{
		"up": tea.KeyUp, "down": tea.KeyDown, "pgup": tea.KeyPgUp, "pgdown": tea.KeyPgDown, "home": tea.KeyHome, "end": tea.KeyEnd, "enter": tea.KeyEnter,
		"esc": tea.KeyEscape, "backspace": tea.KeyBackspace, "left": tea.KeyLeft, "right": tea.KeyRight,
	}
	if code, ok := special[name]; ok {
		return tea.KeyPressMsg{Code: code}
	}
	if c, ok := strings.CutPrefix(name, "ctrl+"); ok {
		return tea.KeyPressMsg{Code: rune(c[0]), Mod: tea.ModCtrl}
	}
	if name == "space" {
		name = " "
	}
	return tea.KeyPressMsg{Code: rune(name[0]), Text: name}
}

func (d *driver) screen() string { return strings.Join(d.m.lines(), "\n") + "\n" }

var escapes = regexp.MustCompile("\x1b\\[[0-9;]*m")

func (d *driver) golden(name string) {
	d.t.Helper()
	got := d.screen()
	d.checkSize()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			d.t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		d.t.Fatal(err)
	}
	if got != string(want) {
		d.t.Errorf("%s differs (go test -update writes it anew):\n%s", name, got)
	}
}

// checkSize makes sure that the screen fits on the screen.
func (d *driver) checkSize() {
	d.t.Helper()
	lines := d.m.lines()
	if len(lines) > d.m.height {
		d.t.Errorf("%d lines on a screen of %d", len(lines), d.m.height)
	}
	for _, l := range lines {
		text := escapes.ReplaceAllString(l, "")
		if strings.ContainsAny(text, "\x1b\n\t\r") {
			d.t.Errorf("control characters in %q", l)
		}
		if n := utf8.RuneCountInString(text); n > d.m.width {
			d.t.Errorf("%d cells on a screen of %d: %q", n, d.m.width, text)
		}
	}
}

func TestGolden(t *testing.T) {
	plainly := Options{}
	for _, test := range []struct {
		name          string
		options       Options
		width, height int
		keys          []string
	}{
		{"devices-80x24", plainly, 80, 24, nil},
		{"devices-120x40", plainly, 120, 40, nil},
		{"devices-40x10", plainly, 40, 10, nil},
		{"devices-ascii", Options{ASCII: true}, 80, 24, nil},
		{"devices-colour", Options{Colour: true}, 100, 24, nil},
		{"quiesced-100x24", plainly, 100, 24, []string{"down", "down"}},
		{"stalled-80x24", plainly, 80, 24, []string{"G", "up"}},
		{"queues-80x24", plainly, 80, 24, []string{"enter"}},
		{"queues-120x40", plainly, 120, 40, []string{"enter", "down"}},
		{"tags-80x24", plainly, 80, 24, []string{"enter", "enter", "j", "j", "j", "j", "j"}},
		{"tags-40x10", plainly, 40, 10, []string{"enter", "enter"}},
		{"sorted-80x24", plainly, 80, 24, []string{"s", "s", "s", "s", "s", "s"}},
		{"filter-80x24", plainly, 80, 24, []string{"/", "l", "o"}},
		{"help-80x24", plainly, 80, 24, []string{"?"}},
		{"help-120x40", plainly, 120, 40, []string{"?"}},
		{"paused-80x24", plainly, 80, 24, []string{"p"}},
		{"small-39x7", plainly, 39, 7, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := start(t, demo(), test.options, test.width, test.height)
			d.keys(test.keys...)
			d.golden(test.name)
		})
	}
}

func TestGoldenEmpty(t *testing.T) {
	d := start(t, &scene{snapshot: Snapshot{Notes: []string{"the ublk driver is not loaded"}}}, Options{}, 0, 0)
	d.golden("empty-0x0")
}

func TestGoldenManyQueues(t *testing.T) {
	s := demo()
	d := s.details[0]
	d.Queues = append(d.Queues, d.Queues...)
	for i := range d.Queues {
		d.Queues[i].Index = i
	}
	s.details[0] = d
	start(t, s, Options{}, 80, 24).golden("many-queues-80x24")
}
