package server

import "ublk/internal/uapi"

// ByHand reports whether the request's pages were registered by a command of the
// server's.
func (r *Request) ByHand() bool { return r.byHand }

// Occupy registers the request's pages in a slot of the ring's buffer table that
// is another tag's. It ends in RingHandler.Done, as Vacate does.
func (r *Request) Occupy(slot int) { r.slotCommand(uapi.IORegisterBuf, slot) }

// Vacate empties a slot that was occupied.
func (r *Request) Vacate(slot int) { r.slotCommand(uapi.IOUnregisterBuf, slot) }

func (r *Request) slotCommand(op uint32, slot int) {
	s := r.operation(uapi.RingOpURingCmd, charFile, int64(op))
	c := s.IOCmd()
	c.QID, c.Tag, c.Addr = uint16(r.q.id), r.tag, uint64(slot)
}
