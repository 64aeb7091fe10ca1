package loop

import (
	"golang.org/x/sys/unix"

	"ublk/server"
)

// Queue implements server.Target.
func (t *Target) Queue(*server.Queue) (server.Handler, error) {
	return &handler{base: t.opts.Offset, block: t.block}, nil
}

// handler turns every request into operations on the queue's ring.
type handler struct {
	base  int64 // of the disk in the file
	block bool
}

// Handle implements server.Handler.
func (h *handler) Handle(r *server.Request) {
	off, n := h.base+r.Offset(), int64(r.Len())
	switch r.Op() {
	case server.OpRead:
		r.RingRead(server.FirstFile, off)
	case server.OpWrite:
		h.write(r)
	case server.OpFlush:
		r.RingSync(server.FirstFile)
	case server.OpDiscard:
		if h.block {
			r.RingDiscard(server.FirstFile, off, n)
		} else {
			r.RingAllocate(server.FirstFile, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
		}
	case server.OpWriteZeroes:
		mode := uint32(unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE)
		if r.NoUnmap() || h.block {
			// On a block device a hole is a promise that only some can keep;
			// zeroes they all can.
			mode = unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE
		}
		r.RingAllocate(server.FirstFile, mode, off, n)
	default:
		r.Complete(-int32(unix.EOPNOTSUPP))
	}
}

func (h *handler) write(r *server.Request) {
	var flags uint32
	if r.FUA() {
		flags = unix.RWF_DSYNC
	}
	r.RingWrite(server.FirstFile, h.base+r.Offset()+int64(r.Progress), flags)
}

// Done implements server.RingHandler. Short transfers go on where they ended; a
// read that meets the end of the file, or a write that moves nothing, fails.
func (h *handler) Done(r *server.Request, res int32) {
	op := r.Op()
	switch {
	case res == -int32(unix.EINTR) || res == -int32(unix.EAGAIN):
		h.again(r)
	case res < 0 || op > server.OpWrite:
		r.Complete(res)
	case res == 0:
		r.Complete(-int32(unix.EIO))
	case r.Progress+int(res) < r.Len():
		r.Progress += int(res)
		h.again(r)
	default:
		r.Complete(int32(r.Len()))
	}
}

// again repeats what is left of the request.
func (h *handler) again(r *server.Request) {
	switch r.Op() {
	case server.OpRead:
		r.RingRead(server.FirstFile, h.base+r.Offset()+int64(r.Progress))
	case server.OpWrite:
		h.write(r)
	default:
		h.Handle(r)
	}
}
