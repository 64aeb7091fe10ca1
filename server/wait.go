package server

import (
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"ublk/internal/uapi"
	"ublk/internal/uring"
)

// How a queue waits. A locked goroutine that loops over blocking system calls
// is dear in Go: after 10 ms the runtime's monitor takes its P away at every
// call (15 to 24 % of the server's CPU). A raw call, which the runtime does not
// see, has none of that, but must not sleep without bound: the thread keeps its
// P, and a stop-the-world waits for it.
//
// So an idle queue waits in an ordinary call, for ever if need be. A busy one
// keeps one timeout in flight on its ring, the heartbeat, and waits raw: no
// sleep is longer than the beat, and an idle queue has no timer at all. From a
// thousand requests a second on the beats cost less than the monitor, which
// wakes up for each request of an idle queue.
const (
	heartbeat  = 2 * time.Millisecond
	busyIOs    = 32                    // this many requests …
	busyWithin = 32 * time.Millisecond // … in this time make a queue busy
	quietIOs   = 2                     // fewer requests in a beat is a quiet beat
	quietBeats = 10                    // this many of them in a row end it
	yieldBeats = 8                     // after this many, others get the P once
)

type pacer struct {
	timespec []byte // of the heartbeat, read by the kernel when it is armed
	busy     bool   // a heartbeat is in flight, or queued for the next enter
	yield    bool   // GOMAXPROCS leaves other goroutines no P of their own
	ios      int    // since mark, or since the last beat
	mark     int64
	quiet    int
	beats    int // since the P was given away
}

func (p *pacer) init(scratch []byte, queues int) {
	p.timespec = scratch[scratchTimespec:]
	uring.Timespec(p.timespec).Nsec = int64(heartbeat)
	p.yield = runtime.GOMAXPROCS(0) <= queues
}

// wait submits what is queued and returns when there is something to handle.
func (q *Queue) wait() error {
	switch {
	case q.async.on:
		return q.waitAsync()
	case q.pace.busy:
		// An enter that does not take all entries does not wait, so the beat is
		// in flight whenever this sleeps.
		return q.ring.WaitRaw()
	}
	return q.ring.Wait()
}

// readClock sets the time of a batch. It is 150 instructions of some 600 in a
// batch of one request, so a busy queue on which nothing is timed keeps the time
// of the last beat.
func (q *Queue) readClock() {
	if !q.pace.busy || q.stats != nil && !q.inline {
		q.now = q.clk.Now()
	}
}

// paced decides after a batch whether the queue is busy.
func (q *Queue) paced() {
	p := &q.pace
	p.ios += q.served
	if p.busy || p.ios < busyIOs || q.async.on {
		return
	}
	if q.now-p.mark < int64(busyWithin) && !q.stopping {
		p.busy, p.quiet = true, 0
		q.armBeat()
	}
	p.mark, p.ios = q.now, 0
}

func (q *Queue) armBeat() {
	s := q.sqe()
	s.Opcode, s.Fd, s.Addr, s.Len, s.UserData = uapi.RingOpTimeout, -1, uring.Addr(q.pace.timespec), 1, kindBeat
}

// beat is the heartbeat's completion: go on, or fall asleep after enough quiet.
func (q *Queue) beat(res int32) {
	p := &q.pace
	if res != -int32(unix.ETIME) {
		q.fail(fmt.Errorf("heartbeat: %w", unix.Errno(-res)))
		return
	}
	if p.quiet++; p.ios+q.served >= quietIOs {
		p.quiet = 0
	}
	p.ios = 0
	q.now = q.clk.Now()
	if p.quiet >= quietBeats {
		p.busy, p.mark = false, q.now
		return
	}
	q.armBeat()
	// Giving the P away costs some 20,000 instructions, so not at every beat.
	if p.beats++; p.yield && p.beats >= yieldBeats {
		p.beats = 0
		runtime.Gosched()
	}
}
