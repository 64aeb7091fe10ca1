package recovery

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/internal/labtest"
	"ublk/internal/stats"
	"ublk/internal/sysfs"
	"ublk/internal/uapi"
)

const (
	blockBytes = 4096
	perClient  = 64 // blocks
	queues     = 2
	clients    = 12
)

// checker is one client of a disk: it knows what each of its blocks may hold.
type checker struct {
	t      *testing.T
	disk   *os.File
	first  int64 // block
	buffer []byte
	seq    uint64
	may    [perClient][]uint64 // numbers that a block may have
	done   int
	failed []request
}

// request is one that failed. Times are CLOCK_MONOTONIC in ns.
type request struct {
	write    bool
	sector   uint64
	from, to int64 // submitted, answered
}

// crash is one kill, and what the dead server left.
type crash struct {
	killed, dead int64 // no request came to the server after the latter
	held         []stats.Tag
	failed       []request
}

// TestLabRequeue kills the server of a disk that does not reissue, under a load
// that knows what it wrote. Only requests that the server held fail, and all of
// those that its statistics page shows; a block whose write failed is the old or
// the new one, never a mixture; all others are exact.
func TestLabRequeue(t *testing.T) {
	c := labtest.Begin(t)
	depth := clients / queues / 2 // half of the clients wait for a tag, which the server does not hold
	if have, err := c.Features(t.Context()); err != nil || !have.Has(uapi.FlagQuiesce) {
		depth = clients + 1 // here a queue without a free tag takes 30 s; see TestLabFullQueue
	}
	id := loopDevice(t, clients*perClient*blockBytes, "--recovery=requeue", "-q", strconv.Itoa(queues), "-d", strconv.Itoa(depth))
	labtest.Run(t, "udevadm", "settle") // what it reads is nobody's here
	if err := os.WriteFile(fmt.Sprintf("/sys/block/ublkb%d/queue/nomerges", id), []byte("2"), 0); err != nil {
		t.Fatal(err)
	}
	w := startWatch(t)
	disk, err := os.OpenFile(ctrl.BlockPath(id), os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	checkers := make([]*checker, clients)
	for i := range checkers {
		checkers[i] = newChecker(t, disk, i)
		wg.Go(func() { checkers[i].run(stop) })
	}
	crashes := make([]crash, labtest.Times(20, 200))
	for i := range crashes {
		time.Sleep(rand.N(200 * time.Millisecond))
		crashes[i] = crashNow(t, c, w, id)
	}
	close(stop)
	wg.Wait()
	done, failed, held := 0, 0, 0
	for _, ch := range checkers {
		done += ch.done
		failed += len(ch.failed)
		for _, r := range ch.failed {
			blame(t, crashes, r)
		}
	}
	for i := range crashes {
		held += len(crashes[i].held)
		crashes[i].check(t, min(clients, queues*depth))
	}
	t.Logf("%d kills, %d requests, %d of them failed, %d of these known to the server", len(crashes), done, failed, held)
	if failed == 0 || held == 0 {
		t.Error("no server held a request when it was killed: nothing was tested")
	}
}

// crashNow kills a server and returns when the watch has replaced it.
func crashNow(t *testing.T, c *ctrl.Client, w *watcher, id int) (k crash) {
	t.Helper()
	server, err := sysfs.OpenPIDFD(info(t, c, id).ServerPID)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	k.killed = stats.Now()
	pid := kill(t, c, id)
	if err := server.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.dead = stats.Now()
	w.await("recovered", recoveredFrom(id, pid))
	page, err := stats.Open(fmt.Sprintf("/run/ublk/%d/stats.%d", id, pid))
	if err != nil {
		t.Fatal(err)
	}
	defer page.Close()
	for q := range page.Queues() {
		s, err := page.Queue(q)
		if err != nil {
			t.Fatal(err)
		}
		if !s.Torn { // else a slot may be half written
			k.held = append(k.held, s.Tags...)
		}
	}
	return k
}

// blame finds the kill that a request failed by: the last one before its answer.
// It must have been submitted while that server could still be given requests.
func blame(t *testing.T, crashes []crash, r request) {
	t.Helper()
	i, _ := slices.BinarySearchFunc(crashes, r.to, func(k crash, to int64) int { return cmp.Compare(k.killed, to) })
	if i == 0 || r.from >= crashes[i-1].dead {
		t.Errorf("a request at sector %d failed that no dead server can have held", r.sector)
		return
	}
	crashes[i-1].failed = append(crashes[i-1].failed, r)
}

// check compares what failed with what the server can have held, and did hold.
// It may have died before it saw all that the driver had handed to it.
func (k *crash) check(t *testing.T, most int) {
	t.Helper()
	if n := len(k.failed); n > most {
		t.Errorf("one crash failed %d requests, of %d that a server can hold", n, most)
	}
	for _, tag := range k.held {
		if !slices.ContainsFunc(k.failed, func(r request) bool { return r.sector == tag.Sector && r.write == (tag.Kind == stats.Write) }) {
			t.Errorf("a dead server held a %v of %d bytes at sector %d, which did not fail", tag.Kind, tag.Bytes, tag.Sector)
		}
	}
}

func newChecker(t *testing.T, disk *os.File, i int) *checker {
	buffer, err := unix.Mmap(-1, 0, blockBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANONYMOUS|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	c := &checker{t: t, disk: disk, first: int64(i * perClient), buffer: buffer}
	for b := range c.may {
		c.may[b] = []uint64{0}
	}
	return c
}

func (c *checker) run(stop <-chan struct{}) {
	for !c.t.Failed() {
		select {
		case <-stop:
			return
		default:
		}
		c.step(rand.IntN(perClient), rand.IntN(3) > 0)
		c.done++
	}
}

// fails notes a failure, which must be EIO.
func (c *checker) fails(r request, err error) {
	r.to = stats.Now()
	if !errors.Is(err, unix.EIO) {
		c.t.Errorf("at sector %d: %v", r.sector, err)
	}
	c.failed = append(c.failed, r)
}

// step writes a block, or reads one back.
func (c *checker) step(block int, write bool) {
	at := (c.first + int64(block)) * blockBytes
	r := request{write: write, sector: uint64(at) / ctrl.SectorSize, from: stats.Now()}
	if write {
		c.seq++
		c.fill(at, c.seq)
		if _, err := c.disk.WriteAt(c.buffer, at); err != nil {
			c.fails(r, err)
			c.may[block] = append(c.may[block], c.seq)
			return
		}
		c.may[block] = []uint64{c.seq}
		return
	}
	if _, err := c.disk.ReadAt(c.buffer, at); err != nil {
		c.fails(r, err)
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
