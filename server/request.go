package server

import (
	"sync/atomic"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/internal/uapi"
)

// Op is an operation of the driver (UBLK_IO_OP_…).
type Op uint8

// The operations that a server of a device without zones can meet.
const (
	OpRead        = Op(uapi.OpRead)
	OpWrite       = Op(uapi.OpWrite)
	OpFlush       = Op(uapi.OpFlush)
	OpDiscard     = Op(uapi.OpDiscard)
	OpWriteZeroes = Op(uapi.OpWriteZeroes)
)

var opNames = map[Op]string{
	OpRead: "read", OpWrite: "write", OpFlush: "flush", OpDiscard: "discard", OpWriteZeroes: "write-zeroes",
	uapi.OpZoneOpen: "zone-open", uapi.OpZoneClose: "zone-close", uapi.OpZoneFinish: "zone-finish", uapi.OpZoneAppend: "zone-append",
	uapi.OpZoneResetAll: "zone-reset-all", uapi.OpZoneReset: "zone-reset", uapi.OpReportZones: "report-zones",
}

func (o Op) String() string {
	if n, ok := opNames[o]; ok {
		return n
	}
	return "unknown"
}

// Request is one request of the block layer, in one tag of a queue. It is valid
// from Handle until it is answered with Complete or Finish, exactly once.
type Request struct {
	q    *Queue
	desc *uapi.IODesc // in the driver's mapping, valid while the request is held
	buf  []byte       // the tag's buffer; nil where the mode has none
	addr uint64       // of buf, as given to the driver

	commit uapi.SQE // COMMIT_AND_FETCH of this tag, but for the result

	next   atomic.Uint32 // link of the finished stack: tag + 1
	res    int32         // result of Finish
	limit  uint32        // of the next transfer on the ring, bytes; 0: none
	tag    uint16
	asked  bool // NEED_GET_DATA has been sent, the request is held
	byHand bool // its pages were registered by a command of ours

	// Progress is the handler's own: bytes done of a request that takes several
	// operations. Zero when Handle is called.
	Progress int
}

// Op is the operation.
func (r *Request) Op() Op { return Op(r.desc.OpFlags & uapi.OpMask) }

// Offset is the request's first byte on the disk.
func (r *Request) Offset() int64 { return int64(r.desc.StartSector) * ctrl.SectorSize }

// Len is the request's length in bytes, also of a discard; 0 for a flush.
func (r *Request) Len() int { return int(r.desc.NrSectors) * ctrl.SectorSize }

// FUA reports a write that must be on stable storage before it is answered.
func (r *Request) FUA() bool { return r.desc.OpFlags&uapi.IOFUA != 0 }

// NoUnmap reports a write-zeroes that must leave the space allocated.
func (r *Request) NoUnmap() bool { return r.desc.OpFlags&uapi.IONoUnmap != 0 }

// Tag is the request's tag, below the queue's depth.
func (r *Request) Tag() int { return int(r.tag) }

// Queue is the queue that the request came by.
func (r *Request) Queue() *Queue { return r.q }

// Data is the request's data: what was written, or where a read must leave what
// it read. It is nil in the modes without buffers and for requests without data.
func (r *Request) Data() []byte {
	if r.buf == nil || r.Op() > OpWrite {
		return nil
	}
	return r.buf[:r.Len()]
}

// Complete answers the request, on the queue's thread, and fetches the next one
// of its tag. The result is the full length of a read or write, 0 for other
// operations, or a negative errno. Anything between is a bug of the target and
// becomes EIO: the driver would take it for success.
func (r *Request) Complete(res int32) {
	q, d := r.q, r.desc
	switch op := d.OpFlags & uapi.OpMask; {
	case op > uapi.OpWrite:
		res = min(res, 0)
	case res < 0:
	case uint32(res) != d.NrSectors<<9:
		res = -int32(unix.EIO)
	case op == uapi.OpRead && q.mode == DataUserCopy:
		res = q.copyOut(r)
	}
	if q.stats != nil {
		if q.inline {
			q.stats.Answered(uint8(d.OpFlags), d.NrSectors<<9, res)
		} else {
			q.stats.Done(r.tag, res)
		}
	}
	q.held--
	if r.byHand {
		q.unregister(r)
	}
	if q.batches != nil {
		q.batches.add(r, res)
		return
	}
	s := q.ring.NextSQE()
	if s == nil {
		s = q.sqe()
	}
	*s = r.commit
	s.IOCmd().Result = res
}

// Finish is Complete from any goroutine, on queues that called AllowFinish. It
// never blocks.
func (r *Request) Finish(res int32) {
	r.res = res
	r.q.async.push(r)
}
