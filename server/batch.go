package server

import (
	"fmt"

	"golang.org/x/sys/unix"

	"ublk/internal/uapi"
	"ublk/internal/uring"
)

// Batch mode (UBLK_F_BATCH_IO): one multishot command delivers the tags of many
// requests, one command answers many. It saves system work from about eight
// requests a wake-up on and costs some below that.

// A delivery carries at most 128 tags of two bytes, so a provided buffer of 256
// bytes always holds one; as many as can be unread at once never run out.
const (
	batchGroup      = 0
	batchBuffers    = 64
	batchTagsMax    = 128
	batchBufferSize = 2 * batchTagsMax
)

// batches is the batch-mode part of a queue.
type batches struct {
	tags     *uring.BufferRing
	mem      []byte               // elements
	elem     int                  // bytes of one element
	elems    []uapi.BatchElem     // mem, or
	addrs    []uapi.BatchElemAddr // mem in copy mode: with the buffer's address
	flags    uint16
	from, to int // elements in mem that wait for the end of this batch
	room     int // elements that mem holds
}

// openBatches sets up batch mode and queues PREP for all tags, then FETCH.
func (q *Queue) openBatches() error {
	b := &batches{elem: 8, room: 4 * len(q.reqs)}
	switch q.mode {
	case DataCopy:
		b.elem, b.flags = 16, uapi.BatchHasBufAddr
	case DataAutoReg:
		b.flags = uapi.BatchAutoBufRegFallback
	}
	var err error
	if b.mem, err = uring.Map(b.room * b.elem); err != nil {
		return err
	}
	if q.mode == DataCopy {
		b.addrs = uring.View[uapi.BatchElemAddr](b.mem)
	} else {
		b.elems = uring.View[uapi.BatchElem](b.mem)
	}
	q.batches = b
	if b.tags, err = q.ring.RegisterBufferRing(batchGroup, batchBuffers, batchBufferSize); err != nil {
		return fmt.Errorf("batch mode: %w", err)
	}
	for tag := range q.reqs {
		b.add(&q.reqs[tag], 0)
	}
	s := q.batchCommand(uapi.IOPrepCmds, kindPrep, b.from, b.to)
	s.BatchIO().Flags = b.flags
	b.from = b.to
	// PREP must have been taken before FETCH: a queue that is not ready answers
	// ENODEV. Both run in the submitting call, in order.
	q.fetchBatch()
	return nil
}

func (b *batches) close() error {
	if b.tags != nil {
		if err := b.tags.Close(); err != nil {
			return err
		}
	}
	return uring.Unmap(b.mem)
}

// add appends the answer to a request. A tag has at most one element that the
// driver has not taken. With room for four queues' worth, those of a command
// whose result is not known yet are never in the first quarter when this wraps
// around, so a partial result can still be read from where they were.
func (b *batches) add(r *Request, res int32) {
	if b.to == b.room {
		b.wrap()
	}
	i := b.to
	b.to++
	// The buffer's index is that of auto-reg mode.
	if i < len(b.addrs) {
		e := &b.addrs[i]
		e.Tag, e.BufIndex, e.Result, e.Addr = r.tag, r.tag, res, r.addr
	} else {
		e := &b.elems[i]
		e.Tag, e.BufIndex, e.Result = r.tag, r.tag, res
	}
}

// wrap moves what waits to the front: it is a quarter at most.
func (b *batches) wrap() {
	n := copy(b.mem, b.mem[b.from*b.elem:b.to*b.elem])
	b.from, b.to = 0, n/b.elem
}

// again appends a copy of element i, which the driver has not taken.
func (b *batches) again(i int) {
	if b.to == b.room {
		b.wrap()
	}
	copy(b.mem[b.to*b.elem:][:b.elem], b.mem[i*b.elem:])
	b.to++
}

// batchCommand queues a command on elements from..to.
func (q *Queue) batchCommand(op uint32, kind uint64, from, to int) *uapi.SQE {
	b := q.batches
	s := q.sqe()
	s.Opcode, s.Flags, s.Fd, s.Off, s.UserData = uapi.RingOpURingCmd, uapi.SQEFixedFile, charFile, uint64(op), kind|uint64(from)<<16|uint64(to-from)
	if to > from {
		s.Addr = uring.Addr(b.mem[from*b.elem:])
	}
	c := s.BatchIO()
	c.QID, c.NrElem, c.ElemBytes = uint16(q.id), uint16(to-from), uint8(b.elem)
	return s
}

// fetchBatch queues the multishot command that delivers tags.
func (q *Queue) fetchBatch() {
	s := q.batchCommand(uapi.IOFetchCmds, kindBatch, 0, 0)
	s.Flags |= uapi.SQEBufferSelect
	s.BufIndex, s.OpFlags = batchGroup, uapi.URingCmdMultishot
	s.BatchIO().ElemBytes = 2
}

// commitBatch answers everything that this batch completed with one command.
func (q *Queue) commitBatch() {
	b := q.batches
	if b.to == b.from {
		return
	}
	s := q.batchCommand(uapi.IOCommitCmds, kindCommit, b.from, b.to)
	s.BatchIO().Flags = b.flags
	b.from = b.to
}

func (q *Queue) armed(res int32) {
	if res < 0 {
		q.fail(fmt.Errorf("prepare: %w", unix.Errno(-res)))
	}
}

// batchFetched handles a delivery: res bytes of tags in a provided buffer.
func (q *Queue) batchFetched(res int32, flags uint32) {
	switch {
	case res > 0 && flags&uapi.CQEBuffer != 0:
		id := uint16(flags >> uapi.CQEBufferShift)
		for _, tag := range uring.View[uint16](q.batches.tags.Buffer(id)[:res]) {
			q.fetched(&q.reqs[tag])
		}
		q.batches.tags.Recycle(id)
	case res == -int32(unix.ENODEV):
		q.stopping = true
		return
	case res < 0 && res != -int32(unix.ENOBUFS):
		q.fail(fmt.Errorf("fetch: %w", unix.Errno(-res)))
		return
	}
	if flags&uapi.CQEMore == 0 && !q.stopping {
		q.fetchBatch()
	}
}

// batchCommitted reads how many bytes of elements the driver took. It stops at
// the first that it cannot take now, and reports an errno if that is the very
// first: the rest goes out again with the next batch. An errno that another
// try cannot cure ends the queue, since going on would lose requests.
func (q *Queue) batchCommitted(from, elements int, res int32) {
	b := q.batches
	switch {
	case res == -int32(unix.EAGAIN) || res == -int32(unix.EINTR):
		res = 0
	case res < 0:
		q.fail(fmt.Errorf("commit of %d requests: %w", elements, unix.Errno(-res)))
		return
	}
	for i := from + int(res)/b.elem; i < from+elements; i++ {
		b.again(i)
	}
}
