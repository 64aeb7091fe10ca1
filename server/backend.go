package server

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
)

// Backend is the easy way to make a disk: ordinary blocking Go. Its methods are
// called from several goroutines at once. An error that holds a unix.Errno
// reaches the disk's client as that errno, any other as EIO; a short read or
// write without an error is EIO as well. p is memory outside the Go heap and
// must not be kept.
//
// What else it can do is found by type assertion: Flusher, SyncWriter,
// Discarder, ZeroWriter, Resizer, io.Closer.
type Backend interface {
	io.ReaderAt
	io.WriterAt
}

// Flusher is a Backend with a volatile cache: Flush returns when everything
// written before it is on stable storage. Without it a write is taken to be
// stable when WriteAt returns.
type Flusher interface{ Flush() error }

// SyncWriter is a Backend that can write through its volatile cache: what
// WriteSync has written is on stable storage when it returns. Without it a
// write that has to be stable is a WriteAt and a Flush.
type SyncWriter interface {
	WriteSync(p []byte, off int64) error
}

// Discarder is a Backend that can forget content.
type Discarder interface{ Discard(off, n int64) error }

// ZeroWriter is a Backend that can write zeroes without being sent them;
// mayUnmap allows it to give the space back.
type ZeroWriter interface {
	WriteZeroes(off, n int64, mayUnmap bool) error
}

// BackendConfig is the geometry of a Backend.
type BackendConfig struct {
	Size         int64 // bytes
	LogicalBlock int   // bytes, 512 if 0
	ReadOnly     bool
	Workers      int // goroutines a queue, 16 if 0
}

// FromBackend makes a Target of b. Requests are served by workers off the queue
// threads, which costs one to two microseconds each, tens at queue depth 1.
func FromBackend(b Backend, cfg BackendConfig) (Target, error) {
	if cfg.LogicalBlock == 0 {
		cfg.LogicalBlock = ctrl.SectorSize
	}
	if cfg.Workers == 0 {
		cfg.Workers = 16
	}
	shift, ok := shiftOf(cfg.LogicalBlock)
	if !ok || shift < 9 {
		return nil, fmt.Errorf("logical block size %d: a power of two of at least 512", cfg.LogicalBlock)
	}
	if cfg.Size < int64(cfg.LogicalBlock) || cfg.Workers < 1 {
		return nil, fmt.Errorf("backend of %d bytes with %d workers", cfg.Size, cfg.Workers)
	}
	t := &backendTarget{b: b, cfg: cfg, params: Geometry(cfg.Size, shift)}
	t.params.Basic.ReadOnly = cfg.ReadOnly
	t.flusher, _ = b.(Flusher)
	t.discarder, _ = b.(Discarder)
	t.zeroer, _ = b.(ZeroWriter)
	t.params.Basic.VolatileCache = t.flusher != nil
	t.params.Basic.FUA = t.flusher != nil
	if t.discarder != nil || t.zeroer != nil {
		t.params.Discard = &ctrl.DiscardParams{Granularity: uint32(cfg.LogicalBlock), MaxSegments: 1}
		if t.discarder != nil {
			t.params.Discard.MaxSectors = maxDiscardSectors
		}
		if t.zeroer != nil {
			t.params.Discard.MaxWriteZeroesSectors = maxDiscardSectors
		}
	}
	if r, ok := b.(Resizer); ok {
		return &resizableBackend{t, r}, nil
	}
	return t, nil
}

// maxDiscardSectors is the largest discard or write-zeroes: 1 GiB.
const maxDiscardSectors = 1 << 30 / ctrl.SectorSize

type backendTarget struct {
	b         Backend
	cfg       BackendConfig
	params    ctrl.Params
	flusher   Flusher
	discarder Discarder
	zeroer    ZeroWriter
}

type resizableBackend struct {
	*backendTarget
	Resizer
}

func (t *backendTarget) Params() ctrl.Params { return t.params }

func (t *backendTarget) Close() error {
	if c, ok := t.b.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

func (t *backendTarget) Queue(q *Queue) (Handler, error) {
	q.AllowFinish()
	w := &workers{work: make(chan *Request, q.Depth())}
	for range min(t.cfg.Workers, q.Depth()) {
		w.wg.Go(func() {
			for r := range w.work {
				r.Finish(t.serve(r))
			}
		})
	}
	return w, nil
}

// workers are the goroutines of one queue. The channel holds a whole queue, so
// Handle never blocks.
type workers struct {
	work chan *Request
	wg   sync.WaitGroup
}

func (w *workers) Handle(r *Request) { w.work <- r }

// Close waits for the workers; none of them may touch a buffer afterwards.
func (w *workers) Close() error {
	close(w.work)
	w.wg.Wait()
	return nil
}

// serve carries out one request and returns its result.
func (t *backendTarget) serve(r *Request) int32 {
	off, n := r.Offset(), r.Len()
	var err error
	switch r.Op() {
	case OpRead:
		err = transfer(t.b.ReadAt, r.Data(), off)
	case OpWrite:
		err = t.write(r)
	case OpFlush:
		err = t.flush()
	case OpDiscard:
		if t.discarder == nil {
			return -int32(unix.EOPNOTSUPP)
		}
		err = t.discarder.Discard(off, int64(n))
	case OpWriteZeroes:
		if t.zeroer == nil {
			return -int32(unix.EOPNOTSUPP)
		}
		err = t.zeroer.WriteZeroes(off, int64(n), !r.NoUnmap())
	default:
		return -int32(unix.EOPNOTSUPP)
	}
	if err != nil {
		return errnoOf(err)
	}
	if r.Op() > OpWrite {
		return 0
	}
	return int32(n)
}

func (t *backendTarget) write(r *Request) error {
	if s, ok := t.b.(SyncWriter); ok && r.FUA() {
		return s.WriteSync(r.Data(), r.Offset())
	}
	err := transfer(t.b.WriteAt, r.Data(), r.Offset())
	if err == nil && r.FUA() {
		err = t.flush()
	}
	return err
}

func (t *backendTarget) flush() error {
	if t.flusher == nil {
		return nil
	}
	return t.flusher.Flush()
}

// transfer makes one call and checks that it moved all of p: io.ReaderAt may
// return io.EOF with all bytes read.
func transfer(call func([]byte, int64) (int, error), p []byte, off int64) error {
	n, err := call(p, off)
	switch {
	case n == len(p) && (err == nil || errors.Is(err, io.EOF)):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return unix.EIO
	}
	return err
}

// errnoOf is the negative errno in err; EIO where there is none.
func errnoOf(err error) int32 {
	var errno unix.Errno
	if errors.As(err, &errno) && errno != 0 {
		return -int32(errno)
	}
	return -int32(unix.EIO)
}
