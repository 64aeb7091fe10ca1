package server

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"ublk/internal/uapi"
	"ublk/internal/uring"
)

// open prepares the queue on its thread, up to and including the fetches. What
// it has made when it fails is freed by close.
func (q *Queue) open() error {
	for _, step := range []func() error{q.pin, q.openRing, q.openMemory, q.openHandler, q.fetchAll} {
		if err := step(); err != nil {
			return fmt.Errorf("queue %d: %w", q.id, err)
		}
	}
	return nil
}

// openRing makes the ring and registers what it uses. A tag has one command and
// at most one operation of the handler's in flight; beside them there are the
// eventfd and the heartbeat.
func (q *Queue) openRing() (err error) {
	depth := uint32(q.dev.info.Depth)
	if q.ring, err = uring.New(uring.Config{Entries: 2*depth + 8, CQEntries: 4*depth + 16, SingleIssuer: true}); err != nil {
		return err
	}
	_ = q.ring.RegisterRing() // an older kernel works without, a little slower
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	q.async.event = event
	return q.registerFiles()
}

// openMemory maps descriptors and buffers and prepares the tags.
func (q *Queue) openMemory() (err error) {
	d, bufBytes := q.dev, 0
	if q.mode.buffered() {
		bufBytes = int(d.info.MaxIOBytes)
	}
	if q.mem, err = mapMemory(d.char, q.id, d.info.Depth, d.info.DescSize, bufBytes, d.cfg.Buffers == BuffersHuge); err != nil {
		return err
	}
	q.fixed = d.cfg.Buffers == BuffersFixed && q.mode.buffered()
	if err := q.registerBuffers(); err != nil {
		return err
	}
	q.reqs = make([]Request, d.info.Depth)
	for tag := range q.reqs {
		r := &q.reqs[tag]
		r.q, r.tag, r.desc, r.buf = q, uint16(tag), q.mem.desc(tag), q.mem.buffer(tag)
		if r.buf != nil {
			r.addr = uring.Addr(r.buf)
		}
		q.fill(&r.commit, uapi.IOCommitAndFetch, r)
	}
	return nil
}

func (q *Queue) openHandler() (err error) {
	if q.handler, err = q.dev.target.Queue(q); err != nil {
		return err
	}
	q.ringed, _ = q.handler.(RingHandler)
	q.prepares = q.mode != DataCopy && q.mode != DataNone
	_, inline := q.handler.(InlineHandler)
	q.inline = inline && !q.prepares && !q.dev.info.Flags.Has(uapi.FlagNeedGetData)
	q.stats.SetThread(unix.Gettid())
	q.pace.init(q.mem.scratch, q.dev.info.Queues)
	q.armWake()
	return nil
}

// fetchAll makes the driver accept every tag of the queue.
func (q *Queue) fetchAll() error {
	if q.dev.info.Flags.Has(uapi.FlagBatchIO) {
		if err := q.openBatches(); err != nil {
			return err
		}
	} else {
		for tag := range q.reqs {
			q.command(uapi.IOFetchReq, &q.reqs[tag]).Result = -1
		}
	}
	if q.err != nil {
		return q.err
	}
	if err := q.ring.Flush(); err != nil {
		return err
	}
	return q.refused()
}

// refused looks for fetches that the driver has answered already, with an
// error: then the device must not be started. (6.12 makes it LIVE all the same,
// or crashes, when a queue without its tags is started.)
func (q *Queue) refused() error {
	if err := q.ring.Poll(); err != nil {
		return err
	}
	for i := range q.ring.Ready() {
		c := q.ring.CQE(i)
		if kind := c.UserData & kindMask; (kind == kindFetch || kind == kindPrep) && c.Res < 0 {
			return fmt.Errorf("tag %d: fetch: %w", uint16(c.UserData), unix.Errno(-c.Res))
		}
	}
	return nil
}

// pin restricts the thread to the CPUs that the configuration asks for.
func (q *Queue) pin() error {
	cpus, err := q.dev.cpus(q.id)
	if err != nil || len(cpus) == 0 {
		return err
	}
	var set unix.CPUSet
	for _, cpu := range cpus {
		set.Set(cpu)
	}
	if err := unix.SchedSetaffinity(0, &set); err == unix.EINVAL {
		return fmt.Errorf("cpus %v: none of them can be used here", cpus)
	} else if err != nil {
		return fmt.Errorf("cpus %v: %w", cpus, err)
	}
	return nil
}

func (q *Queue) registerFiles() error {
	files := []int32{charFile: int32(q.dev.char), wakeFile: int32(q.async.event)}
	if t, ok := q.dev.target.(FileTarget); ok {
		for _, fd := range t.Files() {
			files = append(files, int32(fd))
		}
	}
	return q.ring.RegisterFiles(files)
}

// registerBuffers makes the table of fixed buffers: the tags' own, or empty
// slots that requests' pages are put into. Slot and tag have the same number.
func (q *Queue) registerBuffers() error {
	depth := q.dev.info.Depth
	if q.mode == DataAutoReg || q.mode == DataZeroCopy {
		return q.ring.RegisterSparseBuffers(depth)
	}
	if !q.fixed {
		return nil
	}
	bufs := make([][]byte, depth)
	for tag := range bufs {
		bufs[tag] = q.mem.buffer(tag)
	}
	return q.ring.RegisterBuffers(bufs)
}

// close frees what open made, on the queue's thread: first the ring, which ends
// every operation on the memory, then the rest.
func (q *Queue) close() error {
	var errs []error
	if c, ok := q.handler.(io.Closer); ok {
		errs = append(errs, c.Close())
	}
	if q.ring != nil {
		errs = append(errs, q.ring.Close())
	}
	if q.batches != nil {
		errs = append(errs, q.batches.close())
	}
	if q.mem != nil {
		errs = append(errs, q.mem.unmap())
	}
	if q.async.event >= 0 {
		errs = append(errs, unix.Close(q.async.event))
	}
	return errors.Join(errs...)
}
