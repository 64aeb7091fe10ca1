package fault

import (
	"io"
	"time"

	"golang.org/x/sys/unix"

	"ublk/server"
)

// Queue implements server.Target.
func (t *Target) Queue(q *server.Queue) (server.Handler, error) {
	if err := q.AllowTimeouts(); err != nil {
		return nil, err
	}
	inner, err := t.serving.Queue(q)
	if err != nil {
		return nil, err
	}
	h := &handler{
		target: t, queue: q, inner: inner, chance: chance(t.seed).of(q.ID()),
		block: 1 << t.params.Basic.LogicalBlockShift, tags: make([]tag, q.Depth()),
	}
	h.ringed, _ = inner.(server.RingHandler)
	t.mu.Lock()
	t.queues[q] = true
	t.mu.Unlock()
	return h, nil
}

// handler decides the fate of each request of a queue. The n-th one that a kind
// of fault can meet meets the same every time, for the same seed and settings.
type handler struct {
	target *Target
	queue  *server.Queue
	inner  server.Handler
	ringed server.RingHandler // inner, if it is one
	chance chance
	block  int              // bytes, logical
	counts [purposes]uint64 // of numbers drawn
	stuck  int              // tags
	tags   []tag
}

// tag is what is to become of the request in it.
type tag struct {
	stuck   *server.Request // never to be answered
	written int32           // of it, bytes, if it is stuck half-way
	errno   unix.Errno      // to be its answer, 0: the target's
	delayed bool            // its timeout is in flight
	tear    bool            // the write in flight is the first half of one to be torn
}

// Handle implements server.Handler.
func (h *handler) Handle(r *server.Request) {
	p := h.target.plan.Load()
	op, off, length := r.Op(), r.Offset(), r.Len()
	t := &h.tags[r.Tag()]
	if h.meets(p.stuck, forStuck, op, off, length) != nil {
		t.stuck = r
		h.stuck++
		return
	}
	t.errno = 0
	if e := h.meets(p.errors, forError, op, off, length); e != nil {
		t.errno = e.errno
	}
	if d := h.delay(p.delay, op, off, length); d > 0 {
		t.delayed = true
		r.RingTimeout(d)
		return
	}
	h.pass(r)
}

// next is the next number for a purpose.
func (h *handler) next(purpose int) float64 {
	n := h.counts[purpose]
	h.counts[purpose]++
	return h.chance.at(n, purpose)
}

// meets is the rule that a request meets. No number is drawn where there is
// none that covers it: other requests do not change the course of events.
func (h *handler) meets(rules []rule, purpose int, op server.Op, off int64, n int) *rule {
	for i := range rules {
		if rules[i].covers(op, off, n) {
			return hit(rules[i:], h.next(purpose), op, off, n)
		}
	}
	return nil
}

// hit is the first rule that a request meets for a number from 0 to 1.
func hit(rules []rule, number float64, op server.Op, off int64, n int) *rule {
	for i := range rules {
		r := &rules[i]
		if !r.covers(op, off, n) {
			continue
		}
		if number < r.share {
			return r
		}
		number = (number - r.share) / (1 - r.share) // what is left is a number again
	}
	return nil
}

func (h *handler) delay(d *delay, op server.Op, off int64, n int) time.Duration {
	if d == nil || !d.covers(op, off, n) {
		return 0
	}
	return d.of(h.next(forDelay), h.next(forSpread))
}

// pass answers a request with its error, or gives it to the target.
func (h *handler) pass(r *server.Request) {
	t := &h.tags[r.Tag()]
	if t.errno != 0 {
		r.Complete(-int32(t.errno))
		return
	}
	if h.ringed != nil && r.Op() <= server.OpWrite {
		torn := h.target.plan.Load().torn
		t.tear = torn > 0 && r.Op() == server.OpWrite && r.Len() > h.block && h.next(forTorn) < torn
		h.shorten(r, r.Len(), t.tear)
	}
	h.inner.Handle(r)
}

// shorten makes the next operation on the ring end early, on a block's boundary,
// if it is meant to be short. left is what it could move, in bytes.
func (h *handler) shorten(r *server.Request, left int, short bool) {
	r.RingLimit(0)
	p := h.target.plan.Load()
	share := p.shortReads
	if r.Op() == server.OpWrite {
		share = p.shortWrites
	}
	if left <= h.block || !short && (share == 0 || h.next(forShort) >= share) {
		return
	}
	blocks := (left - 1) / h.block // at least one, and not all
	r.RingLimit((1 + int(h.next(forLength)*float64(blocks))) * h.block)
}

// Done implements server.RingHandler.
func (h *handler) Done(r *server.Request, res int32) {
	t := &h.tags[r.Tag()]
	switch {
	case t.delayed:
		t.delayed = false
		h.pass(r)
		return
	case t.tear && res > 0:
		t.tear, t.stuck, t.written = false, r, res
		h.stuck++
		return
	case res > 0 && r.Op() <= server.OpWrite:
		h.shorten(r, r.Len()-r.Progress-int(res), false)
	}
	h.ringed.Done(r, res)
}

// Wake implements server.Waker: the settings have changed. Stuck requests that
// they do not cover go on.
func (h *handler) Wake() {
	if h.stuck == 0 {
		return
	}
	p := h.target.plan.Load()
	for i := range h.tags {
		t := &h.tags[i]
		if t.stuck == nil || p.holds(t) {
			continue
		}
		r, written := t.stuck, t.written
		t.stuck, t.written, t.errno = nil, 0, 0
		h.stuck--
		if written > 0 {
			h.ringed.Done(r, written)
		} else {
			h.pass(r)
		}
	}
}

func (p *plan) holds(t *tag) bool {
	if t.written > 0 {
		return p.torn > 0
	}
	r := t.stuck
	for i := range p.stuck {
		if s := &p.stuck[i]; s.share > 0 && s.covers(r.Op(), r.Offset(), r.Len()) {
			return true
		}
	}
	return false
}

// Close ends the queue: nobody wakes it from here on.
func (h *handler) Close() error {
	h.target.mu.Lock()
	delete(h.target.queues, h.queue)
	h.target.mu.Unlock()
	if c, ok := h.inner.(io.Closer); ok {
		return c.Close()
	}
	return nil
}
