package server

import (
	"fmt"

	"golang.org/x/sys/unix"

	"ublk/internal/uapi"
)

// Registration of a request's pages by command: always in zero-copy mode, and
// in auto-reg mode when the driver found the tag's slot taken. The slot is the
// tag's number in both.

// register queues REGISTER_IO_BUF; the handler sees the request when it is done.
func (q *Queue) register(r *Request) {
	r.byHand = true
	q.bufferCommand(uapi.IORegisterBuf, kindRegister, r)
}

// unregister queues UNREGISTER_IO_BUF, ahead of the commit: the driver completes
// a request only when no registration of it is left.
func (q *Queue) unregister(r *Request) {
	r.byHand = false
	q.bufferCommand(uapi.IOUnregisterBuf, kindUnregister, r)
}

func (q *Queue) bufferCommand(op uint32, kind uint64, r *Request) {
	s := q.sqe()
	s.Opcode, s.Flags, s.Fd, s.Off, s.UserData = uapi.RingOpURingCmd, uapi.SQEFixedFile, charFile, uint64(op), kind|uint64(r.tag)
	c := s.IOCmd()
	c.QID, c.Tag, c.Addr = uint16(q.id), r.tag, uint64(r.tag)
}

// registered goes on with a request whose pages are in the buffer table. EBUSY
// means that the slot's former owner is still on its way out: a READ or WRITE
// of the handler's that has completed but not yet been let go of. Ask again.
func (q *Queue) registered(r *Request, res int32) {
	switch {
	case res >= 0:
		q.handler.Handle(r)
	case res == -int32(unix.EBUSY):
		q.bufferCommand(uapi.IORegisterBuf, kindRegister, r)
	default:
		r.byHand = false
		r.Complete(res)
	}
}

// unregistered checks that the slot is free again. ENOENT and EINVAL would mean
// that the table is not as this queue keeps it.
func (q *Queue) unregistered(r *Request, res int32) {
	if res < 0 {
		q.fail(fmt.Errorf("tag %d: unregister buffer: %w", r.tag, unix.Errno(-res)))
	}
}
