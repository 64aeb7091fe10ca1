package stats

import (
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"
)

// ErrFormat is a file that is no statistics page of this version, or a page
// that is not finished.
var ErrFormat = errors.New("not a statistics page of this version")

// Page is an open page, of a living or a dead server.
type Page struct {
	f   io.ReaderAt
	c   io.Closer
	hdr header
}

// Counters are those of one kind of operation.
type Counters struct {
	IOs, Bytes, Errors uint64
	TimeNS             uint64 // sum of latencies
}

// Tag is a request that the server holds, or held when it died.
type Tag struct {
	Queue, Tag int
	Op         uint8 // UBLK_IO_OP_…
	Kind       Kind
	Sector     uint64 // 512 bytes
	Bytes      uint32
	Since      int64 // CLOCK_MONOTONIC, ns
}

// Sample is one reading of one queue.
type Sample struct {
	TID   int
	Now   int64 // clock of the queue's last batch
	Count [Kinds]Counters
	Hist  [histograms]Histogram // read, write, other
	Tags  []Tag                 // held, in the order of the tags
	Torn  bool                  // the server died, or is stuck, inside a batch
}

// Open opens the page at path.
func Open(path string) (*Page, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	p, err := newPage(f, f)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	return p, nil
}

func newPage(r io.ReaderAt, c io.Closer) (*Page, error) {
	p := &Page{f: r, c: c}
	if _, err := r.ReadAt(bytesOf(&p.hdr), 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	h := &p.hdr
	switch {
	case h.Magic != magic, h.Version != version, h.Buckets != Buckets, h.Kinds != uint32(Kinds), h.HeadBytes != pageSize,
		h.Queues < 1, h.Queues > maxQueues, h.Depth < 1, h.Depth > maxDepth, int(h.QBytes) != queueBytes(int(h.Depth)):
		return nil, ErrFormat
	}
	return p, nil
}

// Close closes the file.
func (p *Page) Close() error { return p.c.Close() }

// Queues is the number of queues.
func (p *Page) Queues() int { return int(p.hdr.Queues) }

// Depth is the number of tags of a queue.
func (p *Page) Depth() int { return int(p.hdr.Depth) }

// PID is the server that wrote the page.
func (p *Page) PID() int { return int(p.hdr.PID) }

// DevID is the device that it served.
func (p *Page) DevID() int { return int(p.hdr.DevID) }

// Started is when the server made the page: CLOCK_MONOTONIC, ns.
func (p *Page) Started() int64 { return p.hdr.Started }

// tries bounds the readings of a block whose writer is busy: a batch takes
// microseconds, so a few suffice; a writer that died in one never ends it.
const tries = 16

// Queue reads queue i. The newest consistent block, or, when there is none
// because its writer stopped inside a batch, the block as it stands with Torn.
func (p *Page) Queue(i int) (*Sample, error) {
	if i < 0 || i >= p.Queues() {
		return nil, fmt.Errorf("queue %d of %d", i, p.Queues())
	}
	buf := make([]uint64, p.hdr.QBytes/8) // aligned for the structures in it
	raw := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(buf))), p.hdr.QBytes)
	off := int64(pageSize) + int64(i)*int64(p.hdr.QBytes)
	b := (*block)(unsafe.Pointer(unsafe.SliceData(buf)))
	torn := true
	for range tries {
		if _, err := p.f.ReadAt(raw, off); err != nil {
			return nil, fmt.Errorf("statistics page, queue %d: %w", i, err)
		}
		var seq uint64
		if _, err := p.f.ReadAt(bytesOf(&seq), off); err != nil {
			return nil, fmt.Errorf("statistics page, queue %d: %w", i, err)
		}
		if b.Seq == seq && seq%2 == 0 {
			torn = false
			break
		}
	}
	tags := unsafe.Slice((*tagSlot)(unsafe.Add(unsafe.Pointer(b), unsafe.Sizeof(*b))), p.Depth())
	return p.sample(i, b, tags, torn), nil
}

func (p *Page) sample(queue int, b *block, tags []tagSlot, torn bool) *Sample {
	s := &Sample{TID: int(b.TID), Now: b.Now, Torn: torn}
	for k, c := range b.Count {
		s.Count[k] = Counters{IOs: c.IOs, Bytes: c.Bytes, Errors: c.Errors, TimeNS: c.TimeNS}
	}
	for i := range b.Hist {
		s.Hist[i] = b.Hist[i]
	}
	for i, t := range tags {
		if t.Since != 0 {
			s.Tags = append(s.Tags, Tag{Queue: queue, Tag: i, Op: t.Op, Kind: KindOf(t.Op), Sector: t.Sector, Bytes: t.Bytes, Since: t.Since})
		}
	}
	return s
}

func bytesOf[T header | uint64](p *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(p)), unsafe.Sizeof(*p))
}
