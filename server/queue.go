package server

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"

	"ublk/internal/stats"
	"ublk/internal/uapi"
	"ublk/internal/uring"
)

// Fixed files of every queue's ring. The char device is registered always: the
// reference holds recovery back until a dead server's own I/O has ended.
const (
	charFile  = 0
	wakeFile  = 1
	FirstFile = 2 // first of the target's
)

// What a completion belongs to: the upper half of its user_data.
const (
	kindFetch      uint64 = iota << 32 // FETCH, COMMIT_AND_FETCH, NEED_GET_DATA; lower half: tag
	kindTarget                         // an operation of the handler's; lower half: tag
	kindWake                           // READ of the eventfd
	kindBeat                           // the heartbeat's timeout
	kindRegister                       // REGISTER_IO_BUF by hand; lower half: tag
	kindUnregister                     // UNREGISTER_IO_BUF; lower half: tag
	kindPrep                           // PREP_IO_CMDS
	kindBatch                          // FETCH_IO_CMDS, multishot
	kindCommit                         // COMMIT_IO_CMDS; lower half: first element, number of them
	kindMask       uint64 = 0xffffffff << 32
)

// Queue is one queue of a device being served. Everything in it belongs to the
// queue's thread, except where async and Close say otherwise.
type Queue struct {
	dev      *Device
	id       int
	mode     DataMode
	prepares bool     // the mode leaves a part of moving the data to the server
	fixed    bool     // the tags' buffers are registered in the ring
	batches  *batches // batch mode, else nil
	ring     *uring.Ring
	mem      *memory
	reqs     []Request
	handler  Handler
	ringed   RingHandler // handler, if it is one
	inline   bool        // handler answers in Handle, which needs nothing before it
	stats    *stats.Queue
	clk      stats.Clock
	now      int64 // of this batch

	held     int  // requests with the server
	served   int  // requests that arrived in this batch
	stopping bool // a fetch came back with ENODEV: STOP or QUIESCE
	err      error
	spare    uapi.SQE // taken when the ring is broken, so that nobody needs to check

	pace  pacer
	async async
}

// ID is the queue's number.
func (q *Queue) ID() int { return q.id }

// Depth is the number of tags.
func (q *Queue) Depth() int { return len(q.reqs) }

// run is the queue's life on its thread. It reports on opened once it has
// fetched every tag (or failed to), and on the device's left channel when it
// stops serving; then it waits to be released, since the end of its thread is
// the server's death to the kernel (ublk_drv.c:ublk_uring_cmd_cancel_fn, v7.3).
func (q *Queue) run(opened chan<- error) {
	runtime.LockOSThread()
	err := q.open()
	opened <- err
	if err == nil {
		err = q.serve()
	}
	q.dev.left <- err
	<-q.dev.release
	q.dev.closed <- q.close()
}

// serve is the queue loop: everything that has completed is handled, every
// answer queued, and one system call submits the lot and waits for more.
func (q *Queue) serve() error {
	for q.err == nil {
		if err := q.wait(); err != nil {
			return fmt.Errorf("queue %d: wait: %w", q.id, err)
		}
		q.batch()
		if q.async.quit.Load() || q.stopping && q.drained() {
			break
		}
	}
	return q.err
}

// batch handles all completions that can be read and all finished requests.
func (q *Queue) batch() {
	q.served = 0
	q.readClock()
	q.stats.Begin(q.now)
	n := q.ring.Ready()
	for i := range n {
		c := q.ring.CQE(i)
		if c.UserData < uint64(len(q.reqs)) && c.Res == uapi.IOResOK { // kindFetch: the way of nearly all
			q.fetched(&q.reqs[c.UserData])
			continue
		}
		q.completed(c.UserData, c.Res, c.Flags)
	}
	q.ring.Advance(n)
	if q.async.on {
		q.drainFinished()
	}
	if q.batches != nil {
		q.commitBatch()
	}
	q.stats.End()
	q.paced()
}

func (q *Queue) completed(userData uint64, res int32, flags uint32) {
	tag := uint16(userData)
	switch userData & kindMask {
	case kindFetch:
		q.notFetched(&q.reqs[tag], res)
	case kindTarget:
		q.ringed.Done(&q.reqs[tag], res)
	case kindWake:
		q.woken(res)
	case kindBeat:
		q.beat(res)
	case kindRegister:
		q.registered(&q.reqs[tag], res)
	case kindUnregister:
		q.unregistered(&q.reqs[tag], res)
	case kindBatch:
		q.batchFetched(res, flags)
	case kindCommit:
		q.batchCommitted(int(userData>>16&0xffff), int(tag), res)
	case kindPrep:
		q.armed(res)
	default:
		q.fail(fmt.Errorf("completion of nothing: user data %#x, result %d", userData, res))
	}
}

// notFetched handles the completion of a tag's command that delivers nothing.
// Every result has a name; one without is the end of this queue, and so of this
// server.
func (q *Queue) notFetched(r *Request, res int32) {
	switch {
	case res == uapi.IOResNeedGetData:
		q.held++
		r.asked = true
		q.command(uapi.IONeedGetData, r)
	case res == -int32(unix.ENODEV):
		q.stopping = true
	default:
		q.fail(fmt.Errorf("tag %d: fetch: %w", r.tag, unix.Errno(-res)))
	}
}

// fetched hands a request that was delivered to the target, with its data in
// place.
func (q *Queue) fetched(r *Request) {
	if q.inline {
		q.held++
		q.served++
		q.handler.Handle(r)
		return
	}
	if r.asked {
		r.asked = false
	} else {
		q.held++
	}
	q.served++
	r.Progress = 0
	d := r.desc
	if q.stats != nil {
		q.stats.Start(r.tag, uint8(d.OpFlags), d.StartSector, d.NrSectors<<9)
	}
	if q.prepares && !q.prepared(r) {
		return
	}
	q.handler.Handle(r)
}

// prepared puts the data of a request in place in the modes in which the driver
// has not done so. If that takes a command of its own the request goes on in
// registered.
func (q *Queue) prepared(r *Request) bool {
	d := r.desc
	switch q.mode {
	case DataUserCopy:
		if d.OpFlags&uapi.OpMask == uapi.OpWrite {
			if errno := q.copyIn(r); errno != 0 {
				r.Complete(-int32(errno))
				return false
			}
		}
	case DataAutoReg:
		if d.OpFlags&uapi.IONeedRegBuf != 0 { // the driver found the slot taken
			q.register(r)
			return false
		}
	case DataZeroCopy:
		if d.OpFlags&uapi.OpMask <= uapi.OpWrite {
			q.register(r)
			return false
		}
	}
	return true
}

// command queues a command for r's tag.
func (q *Queue) command(op uint32, r *Request) *uapi.IOCmd {
	s := q.sqe()
	q.fill(s, op, r)
	return s.IOCmd()
}

// fill makes s a command for r's tag. The buffer that it names serves the
// request that the command delivers; in copy mode it is also the source of the
// read that the command completes.
func (q *Queue) fill(s *uapi.SQE, op uint32, r *Request) {
	s.Opcode, s.Flags, s.Fd, s.Off, s.UserData = uapi.RingOpURingCmd, uapi.SQEFixedFile, charFile, uint64(op), kindFetch|uint64(r.tag)
	c := s.IOCmd()
	c.QID, c.Tag = uint16(q.id), r.tag
	switch q.mode {
	case DataCopy:
		c.Addr = r.addr
	case DataAutoReg:
		s.Addr = uint64(r.tag) | uapi.AutoBufRegFallback<<16
	}
}

// sqe is the next free submission entry. A full queue is submitted first; a ring
// that cannot be submitted to ends the queue.
func (q *Queue) sqe() *uapi.SQE {
	s := q.ring.SQE()
	if s == nil {
		if err := q.ring.Flush(); err != nil {
			q.fail(fmt.Errorf("submit: %w", err))
			return &q.spare
		}
		s = q.ring.SQE()
	}
	return s
}

// fail notes the first reason for which the queue stops.
func (q *Queue) fail(err error) {
	if q.err == nil {
		q.err = fmt.Errorf("queue %d: %w", q.id, err)
	}
}

// drained reports, once the driver has taken fetches back, that nothing is left
// to do: all answers are with the driver and no request arrived meanwhile.
// Tags may stay armed: after QUIESCE a committed tag is armed again and never
// comes back. Closing the ring ends them.
func (q *Queue) drained() bool {
	if q.held > 0 {
		return false
	}
	if err := q.ring.Flush(); err != nil {
		q.fail(fmt.Errorf("submit: %w", err))
		return true
	}
	if err := q.ring.Poll(); err != nil {
		q.fail(fmt.Errorf("poll: %w", err))
		return true
	}
	return q.ring.Ready() == 0
}
