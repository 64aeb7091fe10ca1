// Package null is a disk that forgets: writes go nowhere, reads are zeroes.
package null

import (
	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/server"
)

// DefaultSize is the capacity where none is given: 250 GiB.
const DefaultSize = 250 << 30

// maxSectors is the largest discard or write-zeroes: 2 GiB, as no data moves.
const maxSectors = 2 << 30 / ctrl.SectorSize

// Target is a null disk.
type Target struct{ params ctrl.Params }

// New makes a null disk of size bytes, rounded down to whole sectors.
func New(size int64) *Target {
	p := server.Geometry(size, 9)
	p.Discard = &ctrl.DiscardParams{Granularity: 4096, MaxSectors: maxSectors, MaxWriteZeroesSectors: maxSectors, MaxSegments: 1}
	return &Target{params: p}
}

// Params implements server.Target. Nothing is kept, so there is no cache to
// flush and discards cost nothing.
func (t *Target) Params() ctrl.Params { return t.params }

// Modes implements server.Moder: the server's memory is the source of zeroes,
// so the data must be copied, or not be moved at all.
func (t *Target) Modes() []server.DataMode {
	return []server.DataMode{server.DataCopy, server.DataUserCopy, server.DataNone}
}

// Resize implements server.Resizer: any capacity will do.
func (t *Target) Resize(int64) error { return nil }

// Close implements server.Target.
func (t *Target) Close() error { return nil }

// Queue implements server.Target.
func (t *Target) Queue(q *server.Queue) (server.Handler, error) {
	return &handler{dirty: make([]int, q.Depth())}, nil
}

// handler answers at once. A tag's buffer holds zeroes but for the first dirty
// bytes, which a write left there: readers get none of them.
type handler struct{ dirty []int }

// AnswersInline implements server.InlineHandler.
func (h *handler) AnswersInline() {}

// Handle implements server.Handler.
func (h *handler) Handle(r *server.Request) {
	switch r.Op() {
	case server.OpWrite:
		h.dirty[r.Tag()] = max(h.dirty[r.Tag()], len(r.Data()))
		r.Complete(int32(r.Len()))
	case server.OpRead:
		if dirty := &h.dirty[r.Tag()]; *dirty > 0 {
			data := r.Data()
			clear(data[:min(*dirty, len(data))])
			if len(data) >= *dirty {
				*dirty = 0
			}
		}
		r.Complete(int32(r.Len()))
	case server.OpFlush, server.OpDiscard, server.OpWriteZeroes:
		r.Complete(0)
	default:
		r.Complete(-int32(unix.EOPNOTSUPP))
	}
}
