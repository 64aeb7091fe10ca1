package server

import (
	"time"

	"ublk/internal/uapi"
	"ublk/internal/uring"
)

// Operations on the queue's own ring, for handlers whose backend is a file.
// Each ends in RingHandler.Done with the operation's result. A request has at
// most one of them in flight.

// RingRead reads from fixed file file at off into the request's data, from its
// byte Progress on to its end.
func (r *Request) RingRead(file int, off int64) { r.transfer(uapi.RingOpRead, file, off, 0) }

// RingWrite writes the request's data, from its byte Progress on, to fixed file
// file at off. flags are RWF_….
func (r *Request) RingWrite(file int, off int64, flags uint32) {
	r.transfer(uapi.RingOpWrite, file, off, flags)
}

// RingLimit makes the next RingRead or RingWrite move at most n bytes, whole
// blocks of its file: what a backend may do at any time. 0 takes it back.
func (r *Request) RingLimit(n int) { r.limit = uint32(n) }

// transfer picks the operation for where the data is: in the tag's buffer, in
// the fixed buffer that this has been registered as, or in the fixed buffer
// that the driver filled in, whose addresses start at 0.
func (r *Request) transfer(op uint8, file int, off int64, flags uint32) {
	s := r.operation(op, file, off)
	s.OpFlags = flags
	s.Len = uint32(r.Len() - r.Progress)
	if r.limit != 0 {
		s.Len, r.limit = min(s.Len, r.limit), 0
	}
	s.Addr = uint64(r.Progress)
	if r.buf != nil {
		s.Addr += r.addr
		if !r.q.fixed {
			return
		}
	}
	s.Opcode, s.BufIndex = uapi.RingOpReadFixed, r.tag
	if op == uapi.RingOpWrite {
		s.Opcode = uapi.RingOpWriteFixed
	}
}

// RingSync makes what was written to fixed file file stable (fdatasync).
func (r *Request) RingSync(file int) {
	r.operation(uapi.RingOpFsync, file, 0).OpFlags = uapi.FsyncDatasync
}

// RingAllocate is fallocate(2) on fixed file file.
func (r *Request) RingAllocate(file int, mode uint32, off, n int64) {
	s := r.operation(uapi.RingOpFallocate, file, off)
	s.Addr, s.Len = uint64(n), mode
}

// RingDiscard discards a range of fixed file file, a block device
// (BLOCK_URING_CMD_DISCARD, Linux 6.12).
func (r *Request) RingDiscard(file int, off, n int64) {
	s := r.operation(uapi.RingOpURingCmd, file, uapi.BlockCmdDiscard)
	s.Addr = uint64(off)
	s.SetAddr3(uint64(n))
}

// AllowTimeouts makes RingTimeout usable on this queue; call it in Target.Queue.
func (q *Queue) AllowTimeouts() (err error) {
	if q.mem.timers == nil {
		q.mem.timers, err = uring.Map(len(q.reqs) * timerBytes)
	}
	return err
}

const timerBytes = 16 // of a timespec

// RingTimeout ends, with -ETIME, after d. It needs AllowTimeouts.
func (r *Request) RingTimeout(d time.Duration) {
	spec := r.q.mem.timers[int(r.tag)*timerBytes:]
	*uring.Timespec(spec) = uapi.Timespec{Sec: int64(d / time.Second), Nsec: int64(d % time.Second)}
	s := r.operation(uapi.RingOpTimeout, -1, 0)
	s.Flags, s.Addr, s.Len = 0, uring.Addr(spec), 1
}

func (r *Request) operation(op uint8, file int, off int64) *uapi.SQE {
	s := r.q.sqe()
	s.Opcode, s.Flags, s.Fd, s.Off, s.UserData = op, uapi.SQEFixedFile, int32(file), uint64(off), kindTarget|uint64(r.tag)
	return s
}
