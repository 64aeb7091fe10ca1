package fault

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// media is a disk in memory that counts, and fails when told to.
type media struct {
	mu     sync.Mutex
	data   []byte
	writes int
	syncs  int
	broken bool
}

func (m *media) ReadAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return copy(p, m.data[off:]), nil
}

func (m *media) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken {
		return 0, unix.ENOSPC
	}
	m.writes++
	return copy(m.data[off:], p), nil
}

func (m *media) Sync() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.syncs++
	return nil
}

func (m *media) content(off, n int) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return bytes.Clone(m.data[off : off+n])
}

func testCache(t *testing.T, torn string) (*cache, *media) {
	t.Helper()
	p, err := compile(map[string]string{"torn": torn})
	if err != nil {
		t.Fatal(err)
	}
	var in atomic.Pointer[plan]
	in.Store(p)
	m := &media{data: make([]byte, 1<<20)}
	c, err := newCache(m, 512, 1, &in)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.close(); err != nil {
			t.Error(err)
		}
	})
	return c, m
}

func fill(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }

func mustWrite(t *testing.T, c *cache, b byte, off int64, n int) {
	t.Helper()
	if got, err := c.WriteAt(fill(b, n), off); got != n || err != nil {
		t.Fatalf("write: %d, %v", got, err)
	}
}

func reads(t *testing.T, c *cache, off int64, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := c.ReadAt(got, off); err != nil || !bytes.Equal(got, want) {
		t.Errorf("at %d the cache reads %x…, %v; want %x…", off, got[:1], err, want[:1])
	}
}

// TestCacheLosesUnflushed is the point of it: the disk has what was flushed,
// and readers see what was written.
func TestCacheLosesUnflushed(t *testing.T) {
	c, m := testCache(t, "")
	mustWrite(t, c, 1, 0, 4096)
	if !bytes.Equal(m.content(0, 4096), make([]byte, 4096)) {
		t.Error("the disk has a write without a flush")
	}
	reads(t, c, 0, fill(1, 4096))
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(m.content(0, 4096), fill(1, 4096)) || m.syncs != 1 || m.writes != 1 {
		t.Errorf("after a flush: %d writes, %d syncs", m.writes, m.syncs)
	}
	mustWrite(t, c, 2, 512, 512)
	reads(t, c, 0, append(append(fill(1, 512), fill(2, 512)...), fill(1, 3072)...))
	if !bytes.Equal(m.content(0, 4096), fill(1, 4096)) {
		t.Error("the disk has the second write")
	}
}

// TestCacheWriteSync writes through, over older content that is forgotten.
func TestCacheWriteSync(t *testing.T) {
	c, m := testCache(t, "")
	mustWrite(t, c, 1, 0, 1024)
	if err := c.WriteSync(fill(2, 512), 512); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(m.content(0, 1024), append(make([]byte, 512), fill(2, 512)...)) || m.syncs != 1 {
		t.Errorf("the disk has %x… and was synced %d times", m.content(510, 4), m.syncs)
	}
	reads(t, c, 0, append(fill(1, 512), fill(2, 512)...))
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(m.content(0, 1024), append(fill(1, 512), fill(2, 512)...)) {
		t.Error("a flush brought back what a synchronous write had replaced")
	}
}

// TestCacheTorn lets a share of the blocks through, and the same ones again.
func TestCacheTorn(t *testing.T) {
	var before []byte
	for range 2 {
		c, m := testCache(t, "50%")
		mustWrite(t, c, 1, 0, 1<<19)
		through := bytes.Count(m.content(0, 1<<19), fill(1, 512))
		if through < 400 || through > 624 {
			t.Errorf("%d of 1024 blocks went through", through)
		}
		if now := m.content(0, 1<<19); before != nil && !bytes.Equal(before, now) {
			t.Error("other blocks the second time")
		} else {
			before = now
		}
		reads(t, c, 0, fill(1, 1<<19))
	}
}

// TestCacheKeepsWhatFailed: a flush that fails says so and loses nothing.
func TestCacheKeepsWhatFailed(t *testing.T) {
	c, m := testCache(t, "")
	mustWrite(t, c, 1, 0, 512)
	m.broken = true
	if err := c.Flush(); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("flush on a full disk: %v", err)
	}
	reads(t, c, 0, fill(1, 512))
	m.broken = false
	if err := c.Flush(); err != nil || m.content(0, 1)[0] != 1 {
		t.Errorf("the flush after it: %v", err)
	}
}

// TestCacheConcurrent has writers with blocks of their own, each of which must
// read what it wrote, while others flush.
func TestCacheConcurrent(t *testing.T) {
	c, m := testCache(t, "30%")
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			off, r := int64(w)<<17, rand.New(rand.NewPCG(uint64(w), 0))
			for round := range 300 {
				n := 512 * (1 + r.IntN(16))
				at := off + 512*int64(r.IntN(200))
				mustWrite(t, c, byte(round), at, n)
				reads(t, c, at, fill(byte(round), n))
				if round%20 == w {
					if err := c.Flush(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	view := make([]byte, len(m.data))
	if _, err := c.ReadAt(view, 0); err != nil {
		t.Fatal(err)
	}
	if err := c.Flush(); err != nil || !bytes.Equal(view, m.data) {
		t.Errorf("the disk is not what the readers saw: %v", err)
	}
}
