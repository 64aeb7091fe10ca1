// Package mem is a RAM disk: memory is used only for what was written, and a
// discard gives it back. The content lives in the serving process and dies with
// it.
package mem

import (
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/server"
)

// maxSectors is the largest discard or write-zeroes: 1 GiB.
const maxSectors = 1 << 30 / ctrl.SectorSize

// Target is a RAM disk.
type Target struct {
	data   []byte // one sparse mapping: pages appear when they are written
	params ctrl.Params
}

// New makes a RAM disk of size bytes, rounded down to whole pages. It may be
// larger than the memory of the machine: only what is written counts.
func New(size int64) (*Target, error) {
	page := int64(unix.Getpagesize())
	size -= size % page
	if size < page {
		return nil, fmt.Errorf("a RAM disk has at least one page of %d bytes", page)
	}
	data, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("a RAM disk of %d bytes: mmap: %w", size, err)
	}
	// A huge page for every small write would make it not sparse at all.
	_ = unix.Madvise(data, unix.MADV_NOHUGEPAGE)
	p := server.Geometry(size, 9)
	p.Discard = &ctrl.DiscardParams{Granularity: uint32(page), MaxSectors: maxSectors, MaxWriteZeroesSectors: maxSectors, MaxSegments: 1}
	return &Target{data: data, params: p}, nil
}

// Params implements server.Target. A write is in the disk when it is answered,
// so there is no cache to flush.
func (t *Target) Params() ctrl.Params { return t.params }

// Volatile implements server.Volatile.
func (t *Target) Volatile() string { return "the content of a RAM disk dies with its server" }

// Close implements server.Target.
func (t *Target) Close() error { return unix.Munmap(t.data) }

// ReadAt implements io.ReaderAt, beside the queues.
func (t *Target) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > int64(len(t.data)) {
		return 0, io.ErrUnexpectedEOF
	}
	return copy(p, t.data[off:]), nil
}

// WriteAt implements io.WriterAt, beside the queues.
func (t *Target) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > int64(len(t.data)) {
		return 0, io.ErrShortWrite
	}
	return copy(t.data[off:], p), nil
}

// Sync has nothing to do: there is no cache.
func (t *Target) Sync() error { return nil }

// Queue implements server.Target. Queues copy side by side without a lock, as
// concurrent requests to the same sectors have no order on any disk.
func (t *Target) Queue(*server.Queue) (server.Handler, error) { return handler{t.data}, nil }

type handler struct{ data []byte }

// AnswersInline implements server.InlineHandler.
func (h handler) AnswersInline() {}

// Handle implements server.Handler.
func (h handler) Handle(r *server.Request) {
	off, n := r.Offset(), int64(r.Len())
	if off+n > int64(len(h.data)) {
		r.Complete(-int32(unix.EIO))
		return
	}
	part := h.data[off : off+n]
	switch r.Op() {
	case server.OpRead:
		copy(r.Data(), part)
		r.Complete(int32(n))
	case server.OpWrite:
		copy(part, r.Data())
		r.Complete(int32(n))
	case server.OpFlush:
		r.Complete(0)
	case server.OpDiscard, server.OpWriteZeroes:
		if r.Op() == server.OpWriteZeroes && r.NoUnmap() {
			clear(part)
		} else {
			h.free(off, n)
		}
		r.Complete(0)
	default:
		r.Complete(-int32(unix.EOPNOTSUPP))
	}
}

// free zeroes a range and gives its whole pages back.
func (h handler) free(off, n int64) {
	page := int64(unix.Getpagesize())
	first, last := (off+page-1)/page*page, (off+n)/page*page
	if first >= last || unix.Madvise(h.data[first:last], unix.MADV_DONTNEED) != nil {
		clear(h.data[off : off+n])
		return
	}
	clear(h.data[off:first])
	clear(h.data[last : off+n])
}
