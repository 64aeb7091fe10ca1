package server

import (
	"fmt"
	"os"
	"runtime"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"ublk/internal/uapi"
	"ublk/internal/uring"
)

// async is the part of a queue that other goroutines touch: the stack of
// finished requests, and the eventfd that wakes the queue's thread.
//
// Any goroutine pushes; only the queue's thread takes, and always the whole
// stack, so a tag cannot be taken and pushed again under somebody's hands. The
// wake-up is sent only to a thread that has announced that it sleeps: it
// announces, then looks at the stack once more, and sync/atomic's sequential
// consistency makes one of the two sides see the other.
type async struct {
	on       bool // the handler finishes requests from other goroutines
	event    int  // eventfd, -1 before there is one
	quit     atomic.Bool
	head     atomic.Uint32 // tag + 1 of the newest finished request; 0: none
	sleeping atomic.Bool
}

// AllowFinish makes Finish usable on this queue; call it in Target.Queue. The
// queue then waits in calls that let other goroutines use its P.
func (q *Queue) AllowFinish() { q.async.on = true }

func (a *async) push(r *Request) {
	for {
		old := a.head.Load()
		r.next.Store(old)
		if a.head.CompareAndSwap(old, uint32(r.tag)+1) {
			break
		}
	}
	if a.sleeping.Load() && a.sleeping.CompareAndSwap(true, false) {
		a.wake()
	}
}

// wake makes the queue's thread return from its wait.
func (a *async) wake() {
	if a.event < 0 {
		return
	}
	one := [8]byte{0: 1, 7: 1} // not zero in either byte order
	_, _ = unix.Write(a.event, one[:])
}

// Wake has the handler's Wake called on the queue's thread, from any goroutine,
// until the handler has been closed.
func (q *Queue) Wake() { q.async.wake() }

// drainFinished completes all requests on the stack.
func (q *Queue) drainFinished() {
	for next := q.async.head.Swap(0); next != 0; {
		r := &q.reqs[next-1]
		next = r.next.Load()
		r.Complete(r.res)
	}
}

// waitAsync gives quick workers a chance to finish on this P before the thread
// sleeps, which saves most wake-ups, then sleeps unless something is finished.
func (q *Queue) waitAsync() error {
	a := &q.async
	if q.served > 0 {
		if err := q.ring.Poll(); err != nil {
			return err
		}
		runtime.Gosched()
	}
	a.sleeping.Store(true)
	defer a.sleeping.Store(false)
	if a.head.Load() != 0 || a.quit.Load() {
		return nil
	}
	return q.ring.Wait()
}

// armWake keeps one READ of the eventfd in flight.
func (q *Queue) armWake() {
	s := q.sqe()
	s.Opcode, s.Flags, s.Fd, s.UserData = uapi.RingOpRead, uapi.SQEFixedFile, wakeFile, kindWake
	s.Addr, s.Len = uring.Addr(q.mem.scratch[scratchCounter:]), 8
}

func (q *Queue) woken(res int32) {
	if res != 8 {
		q.fail(fmt.Errorf("wake-up: %w", os.NewSyscallError("read", unix.Errno(-res))))
		return
	}
	q.armWake()
	if w, ok := q.handler.(Waker); ok {
		w.Wake()
	}
}
