package sample

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"ublk/ctrl"
	"ublk/internal/stats"
	"ublk/internal/sysfs"
	"ublk/internal/units"
	"ublk/tui"
)

// Detail looks closely at one device that the last Sample saw.
func (s *Sampler) Detail(ctx context.Context, id, queue int) tui.Detail {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.devices[id]
	switch {
	case d == nil:
		return tui.Detail{ID: id, Missing: "no such device"}
	case !d.answered():
		return tui.Detail{ID: id, Missing: "the device does not answer"}
	}
	view := closer{probe: d.probe, info: d.seen.info, before: d.previous.reading, after: d.current.reading, queue: queue, now: s.Now()}
	if d.seen.process != nil && d.seen.info.State == ctrl.Live {
		view.server = d.seen.process.PID
	}
	done := make(chan tui.Detail, 1)
	returned := make(chan seen, 1)
	go func() {
		done <- view.look()
		returned <- seen{}
	}()
	timer := time.NewTimer(s.Patience)
	defer timer.Stop()
	select {
	case detail := <-done:
		<-returned
		return detail
	case <-timer.C:
		d.pending = returned
		return tui.Detail{ID: id, Missing: "the device does not answer"}
	}
}

// closer is a close look under way.
type closer struct {
	*probe
	info          *ctrl.DevInfo
	server        int // pid of the living one, 0 for none
	before, after *reading
	queue         int
	now           time.Time

	live    *reading       // the page now
	waiting map[int]string // tag to operation of what is parked
	parked  bool           // whatever is allocated is parked
	threads map[int]thread
}

type thread struct {
	cpu     float64
	lastCPU int
}

func (c *closer) look() tui.Detail {
	detail := tui.Detail{ID: c.id}
	if !c.hasDisk {
		detail.Missing = "no disk, so no requests"
		return detail
	}
	queues, depth := c.size()
	if queues == 0 {
		detail.Missing = "the number of queues is not known"
		return detail
	}
	detail.Missing = c.missing()
	if c.page != nil {
		c.live = readPage(c.page)
	}
	c.lookParked()
	c.lookThreads()
	for i := range queues {
		detail.Queues = append(detail.Queues, c.queueDetail(i, depth))
	}
	return detail
}

// size is the number of queues and their depth, from the driver or from blk-mq.
// A thread that waits for a wedged device's blk-mq attributes cannot be killed,
// so they are read only while something moves.
func (c *closer) size() (queues, depth int) {
	if c.shape == nil && !c.stuck {
		c.shape, _ = c.fs.Queues(c.id)
	}
	if c.info != nil {
		return c.info.Queues, c.info.Depth
	}
	if len(c.shape) == 0 {
		return 0, 0
	}
	return len(c.shape), c.shape[0].Tags
}

func (c *closer) missing() string {
	if c.debugfs || c.page != nil {
		return ""
	}
	if errors.Is(c.fs.CheckDebugfs(), fs.ErrPermission) {
		return "debugfs is for root"
	}
	return "debugfs is not mounted"
}

// lookParked finds out whether the driver keeps what it was given.
func (c *closer) lookParked() {
	c.parked = c.info != nil && (c.info.State == ctrl.Quiesced || c.info.State == ctrl.FailIO)
	if !c.debugfs || c.stat.InFlight == 0 {
		return
	}
	requests, _ := c.fs.RequeueList(c.id)
	c.waiting = map[int]string{}
	for _, r := range requests {
		if op, twice := c.waiting[r.Tag]; twice && op != r.Op {
			r.Op = "" // one number, two queues
		}
		c.waiting[r.Tag] = r.Op
	}
	if inflight, err := c.fs.Inflight(c.id); err == nil && inflight.Total() == 0 && len(requests) > 0 {
		c.parked = true
	}
}

// minThreadSpan is how far apart readings of a clock of 10 ms have to be.
const minThreadSpan = 250 * time.Millisecond

// lookThreads measures the threads of a server of ours: of others it is not
// known which one serves which queue.
func (c *closer) lookThreads() {
	if c.live == nil || c.server == 0 || c.live.pid != c.server {
		return
	}
	list, err := c.fs.Threads(c.server)
	if err != nil {
		return
	}
	c.threads = map[int]thread{}
	last := c.probe.threads
	span := c.now.Sub(last.at)
	used := map[int]time.Duration{}
	for _, t := range list {
		measured := thread{cpu: tui.Unknown, lastCPU: t.LastCPU}
		if before, ok := last.used[t.TID]; ok && last.pid == c.server && span > 0 {
			measured.cpu = max((t.CPU-before).Seconds()/span.Seconds(), 0)
		}
		c.threads[t.TID], used[t.TID] = measured, t.CPU
	}
	if last.pid != c.server || span >= minThreadSpan {
		c.probe.threads = threadTimes{c.server, c.now, used}
	}
}

func (c *closer) queueDetail(i, depth int) tui.Queue {
	q := tui.Queue{
		Index: i, Depth: depth, InFlight: tui.Unknown, CPU: tui.Unknown, LastCPU: tui.Unknown, Errors: tui.Unknown,
		Oldest: tui.Unknown, Latency: tui.NoLatency(),
	}
	for _, hardware := range c.shape {
		if hardware.Index == i {
			q.CPUs = units.FormatCPUs(hardware.CPUs)
		}
	}
	if c.live != nil && i < len(c.live.queues) {
		q.Errors = queueErrors(c.live.queues[i])
		if c.live.pid == c.server {
			q.TID = c.live.queues[i].TID
			q.Rates = queueRates(c.before, c.after, i)
			q.Latency = latencyOf(c.before, c.after, i)
		}
		if t, ok := c.threads[q.TID]; ok {
			q.CPU, q.LastCPU = t.cpu, t.lastCPU
		}
	}
	tags, known := c.tags(i, depth)
	if !known {
		return q
	}
	q.Tags, q.InFlight = tags, len(tags)
	for _, t := range tags {
		q.Oldest = max(q.Oldest, t.Age)
	}
	return q
}

// tags are the requests of a queue, from what the kernel and a server of ours
// tell; known is false if neither does.
func (c *closer) tags(queue, depth int) (tags []tui.Tag, known bool) {
	allocated, err := sysfs.TagSet(nil), error(fs.ErrNotExist)
	if c.debugfs {
		allocated, err = c.fs.TagsBitmap(c.id, queue)
	}
	held, published := c.held(queue)
	if err != nil && !published {
		return nil, false
	}
	started := map[int]string{}
	if err == nil && !published && queue == c.queue {
		requests, _ := c.fs.Busy(c.id, queue)
		for _, r := range requests {
			started[r.Tag] = r.Op
		}
	}
	for tag := range depth {
		t := tui.Tag{Tag: tag, Age: tui.Unknown}
		h, ok := held[tag]
		switch op, busy := started[tag]; {
		case ok && (err != nil || allocated.Has(tag) || !c.parked):
			t.Op, t.Sector, t.Bytes = sysfsOp(h), h.Sector, h.Bytes
			t.Age = max(time.Duration(c.live.at-h.Since), 0)
			t.Holder = c.holderOfHeld()
		case !allocated.Has(tag):
			continue
		case c.parked:
			t.Op, t.Holder = c.waiting[tag], tui.Parked
		case busy:
			t.Op, t.Holder = op, tui.InDriver
		case !published && c.queue != queue:
			t.Holder = tui.InDriver // not looked at so closely
		default:
			t.Op, t.Holder = c.waiting[tag], tui.Allocated
		}
		tags = append(tags, t)
	}
	return tags, true
}

// held is what the server of ours has, or had when it died and is to be given
// again; published is false if that says nothing about now.
func (c *closer) held(queue int) (held map[int]stats.Tag, published bool) {
	if c.live == nil || queue >= len(c.live.queues) {
		return nil, false
	}
	if c.server == 0 && (c.info == nil || !c.parked || c.info.Recovery() != ctrl.RecoveryReissue) || c.server > 0 && c.live.pid != c.server {
		return nil, false
	}
	held = map[int]stats.Tag{}
	for _, t := range c.live.queues[queue].Tags {
		held[t.Tag] = t
	}
	return held, true
}

func (c *closer) holderOfHeld() tui.Holder {
	switch {
	case c.server > 0:
		return tui.Delivered
	case c.debugfs:
		return tui.Parked
	}
	return tui.Lost
}

// sysfsOp is the operation as the kernel's own lists name it.
func sysfsOp(t stats.Tag) string {
	switch t.Kind {
	case stats.Read:
		return "READ"
	case stats.Write:
		return "WRITE"
	case stats.Flush:
		return "FLUSH"
	case stats.Discard:
		return "DISCARD"
	case stats.WriteZeroes:
		return "WRITE_ZEROES"
	}
	return "OTHER"
}
