package server_test

import (
	"sync"
	"sync/atomic"

	"ublk/server"
)

// ram is a backend with everything that a backend can have. It counts what
// arrives, and keeps what it was sent.
type ram struct {
	mu   sync.RWMutex
	data []byte

	reads, writes, flushes, discards, zeroes, kept atomic.Int64
}

func newRAM(size int) *ram { return &ram{data: make([]byte, size)} }

func (d *ram) ReadAt(p []byte, off int64) (int, error) {
	d.reads.Add(1)
	d.mu.RLock()
	defer d.mu.RUnlock()
	return copy(p, d.data[off:]), nil
}

func (d *ram) WriteAt(p []byte, off int64) (int, error) {
	d.writes.Add(1)
	d.mu.Lock()
	defer d.mu.Unlock()
	return copy(d.data[off:], p), nil
}

func (d *ram) Flush() error {
	d.flushes.Add(1)
	return nil
}

func (d *ram) Discard(off, n int64) error {
	d.discards.Add(1)
	return d.clear(off, n)
}

func (d *ram) WriteZeroes(off, n int64, mayUnmap bool) error {
	d.zeroes.Add(1)
	if !mayUnmap {
		d.kept.Add(1)
	}
	return d.clear(off, n)
}

func (d *ram) clear(off, n int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.data[off : off+n])
	return nil
}

func (d *ram) Resize(bytes int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	data := make([]byte, bytes)
	copy(data, d.data)
	d.data = data
	return nil
}

var _ interface {
	server.Backend
	server.Flusher
	server.Discarder
	server.ZeroWriter
	server.Resizer
} = (*ram)(nil)
