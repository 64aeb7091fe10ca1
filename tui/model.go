// Package tui is `ublk top`: the screen on which devices, their queues and
// their tags can be watched, and the same as text and JSON. It does no input or
// output of its own beside the terminal's: a Sampler looks at the devices.
package tui

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
)

// Options are how the screen starts.
type Options struct {
	Interval time.Duration // between samples; 0 is a second
	Only     []int         // the devices to show; none is all
	Colour   bool
	ASCII    bool // the terminal cannot show more
}

// minInterval keeps the screen from doing nothing but look.
const minInterval = 50 * time.Millisecond

// Model is the screen's state. It is a bubbletea model.
type Model struct {
	ctx      context.Context // of the samples; the model lives no longer
	sampler  Sampler
	style    style
	bindings []binding
	only     []int

	width, height int
	interval      time.Duration
	ticks         int // tells the running clock from stopped ones
	after         func(time.Duration, func(time.Time) tea.Msg) tea.Cmd

	snapshot Snapshot // the last one
	sampled  bool     // there is one
	ghosts   []ghost
	detail   Detail
	seen     focus     // what detail is about
	asking   bool      // a sample is under way
	asked    time.Time // since when

	level   level
	devices list[Device]
	queues  list[Queue]
	tags    list[Tag]

	filter, before   string // what to show, and what was shown before it was typed
	typing           bool
	paused, hideIdle bool
	helping          bool
}

// ghost is a device that has vanished, and in how many samples.
type ghost struct {
	device Device
	missed int
}

// ghostSamples is how long a vanished device stays on the screen.
const ghostSamples = 3

// New returns the model. Samples end with ctx.
func New(ctx context.Context, sampler Sampler, o Options) *Model {
	m := &Model{
		ctx: ctx, sampler: sampler, style: style{o.Colour, o.ASCII}, bindings: bindings(), only: o.Only,
		width: 80, height: 24, interval: o.Interval, after: tea.Tick,
	}
	if m.interval == 0 {
		m.interval = time.Second
	}
	m.interval = max(m.interval, minInterval)
	m.devices = list[Device]{columns: deviceColumns(), key: func(d *Device) int { return d.ID }, look: m.deviceLook, chosen: -1}
	m.queues = list[Queue]{columns: queueColumns(), key: func(q *Queue) int { return q.Index }, look: queueLook, chosen: -1}
	m.tags = list[Tag]{columns: tagColumns(), key: func(t *Tag) int { return t.Tag }, look: tagLook, chosen: -1}
	return m
}

// rowList is what the lists of the levels have in common.
type rowList interface {
	move(by int)
	size() int
	sortNext(by int)
	flip()
	draw(s style, width, height int) []string
}

// view is the list of the current level.
func (m *Model) view() rowList {
	switch m.level {
	case queues:
		return &m.queues
	case tags:
		return &m.tags
	}
	return &m.devices
}

// The messages.
type (
	tickMsg   struct{ ticks int }
	sampleMsg struct {
		snapshot Snapshot
		detailMsg
	}
	detailMsg struct {
		detail Detail
		focus  focus
	}
)

// Init looks at the devices at once, and again soon: rates need two samples.
func (m *Model) Init() tea.Cmd {
	return tea.Batch(m.sample(), m.tickIn(min(m.interval, firstInterval)))
}

const firstInterval = 300 * time.Millisecond

// tick starts the clock anew.
func (m *Model) tick() tea.Cmd { return m.tickIn(m.interval) }

func (m *Model) tickIn(d time.Duration) tea.Cmd {
	m.ticks++
	ticks := m.ticks
	return m.after(d, func(time.Time) tea.Msg { return tickMsg{ticks} })
}

// Update obeys keys and takes in samples.
func (m *Model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.KeyPressMsg:
		return m, m.press(msg)
	case tea.WindowSizeMsg:
		m.resize(msg.Width, msg.Height)
	case tea.ResumeMsg:
		return m, tea.Batch(m.sample(), m.tick())
	case tickMsg:
		if msg.ticks == m.ticks && !m.paused {
			return m, tea.Batch(m.sample(), m.tick())
		}
	case sampleMsg:
		m.asking = false
		if m.paused {
			return m, nil
		}
		m.take(msg.snapshot)
		m.detail, m.seen = msg.detail, msg.focus
		return m, m.refresh()
	case detailMsg:
		m.asking = false
		if m.paused {
			return m, nil
		}
		m.detail, m.seen = msg.detail, msg.focus
		return m, m.refresh()
	}
	return m, nil
}

// resize takes a size of nothing, as serial lines have it, for the usual one.
func (m *Model) resize(width, height int) {
	if width <= 0 || height <= 0 {
		width, height = 80, 24
	}
	m.width, m.height = width, height
}

// sample asks for a look at all devices, unless one is under way.
func (m *Model) sample() tea.Cmd {
	if m.asking {
		return nil
	}
	m.asking, m.asked = true, time.Now()
	f := m.focus()
	return func() tea.Msg {
		snapshot := m.sampler.Sample(m.ctx)
		return sampleMsg{snapshot, m.closeLook(f)}
	}
}

// look asks for a close look at what is selected, if what is known is about
// something else. The screen does not wait for the next sample with it.
func (m *Model) look() tea.Cmd {
	f := m.focus()
	if f == m.seen || f == (focus{}) || m.paused || m.asking {
		return nil // when asking, refresh comes back here
	}
	m.asking, m.asked = true, time.Now()
	return func() tea.Msg { return m.closeLook(f) }
}

// closeLook runs off the screen's goroutine.
func (m *Model) closeLook(f focus) detailMsg {
	if f == (focus{}) {
		return detailMsg{focus: f}
	}
	return detailMsg{m.sampler.Detail(m.ctx, f.id, f.queue), f}
}

// focus is what is to be looked at closely. The zero value is nothing.
type focus struct {
	some      bool
	id, queue int
}

func (m *Model) focus() focus {
	d := m.devices.selected()
	if d == nil {
		return focus{}
	}
	if q := m.queues.selected(); m.level == tags && q != nil {
		return focus{true, d.ID, q.Index}
	}
	return focus{true, d.ID, -1}
}

// take makes a snapshot the current one. What is missing in it stays as a ghost.
func (m *Model) take(s Snapshot) {
	there := map[int]bool{}
	for _, d := range s.Devices {
		there[d.ID] = true
	}
	var ghosts []ghost
	for _, g := range m.ghosts {
		if g.missed++; !there[g.device.ID] && g.missed <= ghostSamples {
			ghosts = append(ghosts, g)
		}
	}
	for _, d := range m.snapshot.Devices {
		if !there[d.ID] {
			ghosts = append(ghosts, ghost{vanished(d), 1})
		}
	}
	m.ghosts, m.snapshot, m.sampled = ghosts, s, true
}

// vanished is what is shown of a device that is gone.
func vanished(d Device) Device {
	return Device{ID: d.ID, Name: d.Name, Type: d.Type, State: "gone", Queues: d.Queues, Depth: d.Depth,
		InFlight: Unknown, Errors: Unknown, Latency: NoLatency(), Server: Server{CPU: Unknown}}
}

// refresh fits the lists to what is known now, and asks for what is not.
func (m *Model) refresh() tea.Cmd {
	var rows []Device
	for _, d := range m.snapshot.Devices {
		if m.shows(&d) {
			rows = append(rows, d)
		}
	}
	for _, g := range m.ghosts {
		if m.shows(&g.device) {
			rows = append(rows, g.device)
		}
	}
	before := m.devices.chosen
	m.devices.set(rows)
	if d := m.devices.selected(); m.level != devices && (d == nil || d.ID != before) {
		m.level = devices // the device that was open is gone
	}
	m.setQueues()
	return m.look()
}

// setQueues lists the queues of the selected device, if it is the one that was
// looked at.
func (m *Model) setQueues() {
	if d := m.devices.selected(); d != nil && m.seen.some && m.seen.id == d.ID {
		m.queues.set(slices.Clone(m.detail.Queues))
	} else {
		m.queues.set(nil)
	}
	m.setTags()
}

func (m *Model) setTags() {
	if q := m.queues.selected(); q != nil {
		m.tags.set(slices.Clone(q.Tags))
	} else {
		m.tags.set(nil)
	}
}

// shows says whether a device is to be listed.
func (m *Model) shows(d *Device) bool {
	switch {
	case len(m.only) > 0 && !slices.Contains(m.only, d.ID):
		return false
	case m.level != devices && d.ID == m.devices.chosen:
		return true // the one that is open
	case m.hideIdle && d.Idle():
		return false
	case m.filter == "":
		return true
	}
	words := []string{strconv.Itoa(d.ID), d.Name, d.Type, d.State, d.Health, d.Server.Command, strconv.Itoa(d.Server.PID)}
	return strings.Contains(strings.ToLower(strings.Join(words, "\n")), strings.ToLower(m.filter))
}

func (m *Model) isGhost(id int) bool {
	return slices.ContainsFunc(m.ghosts, func(g ghost) bool { return g.device.ID == id })
}
