package sample

import (
	"time"

	"ublk/ctrl"
	"ublk/internal/sysfs"
	"ublk/tui"
)

// device is what is known of a device over time.
type device struct {
	probe   *probe
	pending <-chan seen // of a look that has not returned; nil: probe is free
	silent  time.Time   // since when it has not answered; zero: it has
	fresh   bool        // seen is of this sample
	started bool        // there was a look at all

	stat     sysfs.Stat // of this sample
	hasDisk  bool
	seen     seen
	previous moment // the sample before, for rates
	current  moment

	first       time.Time    // it was seen
	reference   sysfs.Sample // since which nothing was completed
	referenceAt time.Time
	condition   string // state and health
	since       time.Time
	atLeast     bool // condition is that of the first look
	pid         int  // the last server that was alive
	command     string
}

// moment is what rates are made of.
type moment struct {
	at      time.Time // zero: none
	disk    bool
	stat    sysfs.Stat
	process *sysfs.Process
	reading *reading
}

func newDevice(id int, s *Sampler) *device {
	return &device{probe: &probe{id: id, fs: s.FS, state: s.State, driver: s.Driver}}
}

// aim tells the device what the disk statistics say. The probe learns it when
// it is free.
func (d *device) aim(disks map[int]sysfs.Stat, debugfs bool) {
	stat, hasDisk := disks[d.probe.id]
	same := d.started && hasDisk && d.hasDisk && stat.Done() == d.stat.Done()
	if d.answered() {
		p := d.probe
		p.stat, p.hasDisk, p.debugfs = stat, hasDisk, debugfs
		p.quiet = same && stat.InFlight == 0 && d.stat.InFlight == 0
		p.stuck = same && stat.InFlight > 0
		if !hasDisk || d.hasDisk && stat.Done() < d.stat.Done() {
			p.shape = nil // another disk
		}
	}
	d.stat, d.hasDisk, d.fresh = stat, hasDisk, false
}

// answered says whether the probe is free, which it is when a look that was
// given up has returned. What that look saw is too old to use.
func (d *device) answered() bool {
	if d.pending == nil {
		return true
	}
	select {
	case <-d.pending:
		d.pending = nil
		return true
	default:
		return false
	}
}

func (d *device) take(s seen) { d.seen, d.fresh, d.started = s, true, true }

// describe is the device for the screen.
func (d *device) describe(now time.Time) tui.Device {
	p := d.probe
	out := tui.Device{ID: p.id, Queues: tui.Unknown, Depth: tui.Unknown, InFlight: tui.Unknown, Errors: tui.Unknown, Latency: tui.NoLatency()}
	out.Server.CPU = tui.Unknown
	d.previous, d.current = d.current, moment{at: now, disk: d.hasDisk, stat: d.stat, process: d.seen.process, reading: d.seen.reading}
	if d.hasDisk {
		out.InFlight = int(d.stat.InFlight)
		out.Rates = diskRates(d.previous, d.current)
	}
	if o := d.seen.own; o != nil {
		out.Name, out.Type, out.Server.Own = o.name, o.kind, true
	}
	d.describeServer(&out)
	d.describePage(&out)
	d.judge(&out, now)
	if d.fresh {
		d.silent = time.Time{}
	} else {
		if d.silent.IsZero() {
			d.silent = now.Add(-defaultPatience) // it was waited for
		}
		out.Silent = now.Sub(d.silent)
	}
	return out
}

func (d *device) describeServer(out *tui.Device) {
	info := d.seen.info
	if info == nil {
		if d.fresh && !d.hasDisk {
			out.State = ctrl.Dead.String()
		}
		return
	}
	out.State, out.Recovery = info.State.String(), info.Recovery().String()
	out.Queues, out.Depth = info.Queues, info.Depth
	process := d.seen.process
	// Old kernels go on naming a server that is gone; its number may be another's by now.
	if process != nil && (process.State == 'Z' || process.State == 'X' || info.State != ctrl.Live) {
		process = nil
	}
	server := &out.Server
	switch {
	case process != nil:
		d.pid, d.command = process.PID, process.Comm
		server.PID, server.Command, server.Alive, server.State = process.PID, process.Comm, true, process.State
		server.CPU = cpuUse(d.previous, d.current)
	case info.State == ctrl.Dead:
	default:
		server.PID, server.Command = d.pid, d.command
		if server.PID == 0 && info.ServerPID > 0 {
			server.PID = info.ServerPID
		}
		if server.PID == 0 && d.seen.reading != nil {
			server.PID = d.seen.reading.pid
		}
	}
	out.Handler = d.seen.handler
}

// describePage adds what a server of ours publishes.
func (d *device) describePage(out *tui.Device) {
	r := d.seen.reading
	if r == nil {
		return
	}
	out.Errors = 0
	for _, q := range r.queues {
		out.Errors += queueErrors(q)
	}
	if out.Server.Alive {
		out.Latency = latencyOf(d.previous.reading, r, -1)
	}
}

// judge derives the health, and since when it is so.
func (d *device) judge(out *tui.Device, now time.Time) {
	s := sysfs.Sample{State: sysfs.StateUnknown, HasDisk: d.hasDisk, Stat: d.stat,
		Inflight: d.seen.inflight, Requeued: d.seen.requeued, QueueFlags: d.seen.flags, NoQueues: d.seen.noQueues}
	switch {
	case d.seen.info != nil:
		s.State = int(d.seen.info.State)
		s.Server = 'X'
		if d.seen.process != nil {
			s.Server = d.seen.process.State
		}
	case d.fresh && !d.hasDisk:
		s.State = sysfs.StateDead
	}
	if !d.reference.Busy() || d.reference.Stat.Done() != s.Stat.Done() || d.reference.State != s.State {
		d.reference, d.referenceAt = s, now
	}
	reference := sysfs.Sample{}
	if now.Sub(d.referenceAt) >= stallAfter {
		reference = d.reference
	}
	health := sysfs.Derive(reference, s)
	if d.first.IsZero() {
		d.first = now
	}
	out.Health = string(health)
	if condition := out.State + " " + out.Health; condition != d.condition {
		d.since, d.atLeast = now, d.condition == ""
		if health == sysfs.Stalled || health == sysfs.Parked {
			d.since = d.referenceAt
			d.atLeast = d.since.Equal(d.first)
		}
		d.condition = condition
	}
	out.For, out.AtLeast = now.Sub(d.since), d.atLeast
}
