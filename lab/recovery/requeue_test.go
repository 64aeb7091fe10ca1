package recovery

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
)

const (
	blockBytes = 4096
	perClient  = 64 // blocks
	clients    = 8
)

// checker is one client of a disk: it knows what each of its blocks may hold.
type checker struct {
	t      *testing.T
	disk   *os.File
	first  int64 // block
	buffer []byte
	seq    uint64
	may    [perClient][]uint64 // numbers that a block may have
	errors *atomic.Int64
}

// TestLabRequeue kills the server of a disk that does not reissue, under a load
// that knows what it wrote. Only requests that the server held fail; a block
// whose write failed is the old or the new one, never a mixture; all others are
// exact.
func TestLabRequeue(t *testing.T) {
	c := begin(t)
	id := loopDevice(t, clients*perClient*blockBytes, "--recovery=requeue", "-q", "2")
	w := startWatch(t)
	disk, err := os.OpenFile(ctrl.BlockPath(id), os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	var failed, done atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range clients {
		buffer, err := unix.Mmap(-1, 0, blockBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANONYMOUS|unix.MAP_PRIVATE)
		if err != nil {
			t.Fatal(err)
		}
		ch := &checker{t: t, disk: disk, first: int64(i * perClient), buffer: buffer, errors: &failed}
		for b := range ch.may {
			ch.may[b] = []uint64{0}
		}
		wg.Go(func() {
			for !t.Failed() {
				select {
				case <-stop:
					return
				default:
				}
				ch.step(rand.IntN(perClient), rand.IntN(3) > 0)
				done.Add(1)
			}
		})
	}
	kills := times(20, 200)
	for range kills {
		time.Sleep(rand.N(200 * time.Millisecond))
		before := failed.Load()
		pid := kill(t, c, id)
		w.await("recovered", recoveredFrom(id, pid))
		if n := failed.Load() - before; n > clients {
			t.Errorf("one crash failed %d requests, there are only %d clients", n, clients)
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d kills, %d requests, %d of them failed", kills, done.Load(), failed.Load())
	if failed.Load() == 0 {
		t.Error("no request ever failed: nothing was tested")
	}
}

// step writes a block, or reads one back.
func (c *checker) step(block int, write bool) {
	at := (c.first + int64(block)) * blockBytes
	if write {
		c.seq++
		c.fill(at, c.seq)
		switch _, err := c.disk.WriteAt(c.buffer, at); {
		case err == nil:
			c.may[block] = []uint64{c.seq}
		case errors.Is(err, unix.EIO):
			c.errors.Add(1)
			c.may[block] = append(c.may[block], c.seq)
		default:
			c.t.Errorf("write: %v", err)
		}
		return
	}
	if _, err := c.disk.ReadAt(c.buffer, at); err != nil {
		if !errors.Is(err, unix.EIO) {
			c.t.Errorf("read: %v", err)
		}
		c.errors.Add(1)
		return
	}
	seq := binary.LittleEndian.Uint64(c.buffer[8:])
	if seq == 0 && slices.Contains(c.may[block], 0) {
		return
	}
	read := slices.Clone(c.buffer)
	c.fill(at, seq)
	switch {
	case !slices.Contains(c.may[block], seq):
		c.t.Errorf("block at %d has number %d, of %v", at, seq, c.may[block])
	case !slices.Equal(read, c.buffer):
		c.t.Errorf("block at %d is a mixture", at)
	}
	// It may not change any more: a write that failed does not come later.
	c.may[block] = []uint64{seq}
}

// fill makes a block of its place and a number.
func (c *checker) fill(at int64, seq uint64) {
	for i := 0; i < blockBytes; i += 16 {
		binary.LittleEndian.PutUint64(c.buffer[i:], uint64(at+int64(i)))
		binary.LittleEndian.PutUint64(c.buffer[i+8:], seq)
	}
}
