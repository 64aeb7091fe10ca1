package stats

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Writer is a page being written. Queue(i) belongs to the thread of queue i.
type Writer struct {
	mem    []byte
	queues []Queue
}

// Queue records what one queue does. All methods are the queue thread's own;
// none allocates, and on a nil *Queue none does anything.
type Queue struct {
	b    *block
	tags []tagSlot
	now  int64
	_    [cacheLine]byte
}

// Now is CLOCK_MONOTONIC in nanoseconds, the clock of the page.
func Now() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}

// Clock reads the same clock through the vdso, which costs a tenth. The zero
// value is not usable; copies are.
type Clock struct {
	start time.Time
	at    int64
}

// NewClock ties the runtime's monotonic clock to the page's.
func NewClock() Clock { return Clock{start: time.Now(), at: Now()} }

// Now is CLOCK_MONOTONIC in nanoseconds.
func (c *Clock) Now() int64 { return c.at + int64(time.Since(c.start)) }

// Create makes the page at path, which must not exist: a new server starts a
// new page. The pages are locked in memory where the limits allow it.
func Create(path string, dev, queues, depth int) (*Writer, error) {
	if queues < 1 || queues > maxQueues || depth < 1 || depth > maxDepth {
		return nil, fmt.Errorf("statistics page: %d queues of depth %d", queues, depth)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	qBytes := queueBytes(depth)
	size := pageSize + queues*qBytes
	// Reserve the memory now: a store into a hole of a full tmpfs is SIGBUS.
	if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(size)); err != nil {
		return nil, errors.Join(&os.PathError{Op: "fallocate", Path: path, Err: err}, os.Remove(path))
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, errors.Join(&os.PathError{Op: "mmap", Path: path, Err: err}, os.Remove(path))
	}
	_ = unix.Mlock(mem)
	w := &Writer{mem: mem, queues: make([]Queue, queues)}
	for i := range w.queues {
		p := unsafe.Pointer(&mem[pageSize+i*qBytes])
		w.queues[i].b = (*block)(p)
		w.queues[i].tags = unsafe.Slice((*tagSlot)(unsafe.Add(p, unsafe.Sizeof(block{}))), depth)
	}
	h := (*header)(unsafe.Pointer(unsafe.SliceData(mem)))
	*h = header{
		Version: version, PID: uint32(os.Getpid()), Queues: uint32(queues), Depth: uint32(depth), HeadBytes: pageSize,
		QBytes: uint32(qBytes), Buckets: Buckets, Kinds: uint32(Kinds), Started: Now(), DevID: uint32(dev),
	}
	atomic.StoreUint64(&h.Magic, magic) // last: a page without it is not finished
	return w, nil
}

// Queue is the part of queue i; nil for a nil Writer.
func (w *Writer) Queue(i int) *Queue {
	if w == nil {
		return nil
	}
	return &w.queues[i]
}

// Close unmaps the page and leaves the file. No queue may write any more.
func (w *Writer) Close() error {
	if w == nil {
		return nil
	}
	return os.NewSyscallError("munmap", unix.Munmap(w.mem))
}

// SetThread publishes the queue's thread id.
func (q *Queue) SetThread(tid int) {
	if q != nil {
		atomic.StoreUint32(&q.b.TID, uint32(tid))
	}
}

// Begin opens a batch: now is Now() at its start, the time of all that Start
// and Done record until End.
func (q *Queue) Begin(now int64) {
	if q != nil {
		q.now = now
		atomic.StoreUint64(&q.b.Seq, q.b.Seq+1)
		q.b.Now = now
	}
}

// End closes the batch.
func (q *Queue) End() {
	if q != nil {
		atomic.StoreUint64(&q.b.Seq, q.b.Seq+1)
	}
}

// Start records that the server was handed tag: op is the descriptor's.
func (q *Queue) Start(tag uint16, op uint8, sector uint64, bytes uint32) {
	if q == nil {
		return
	}
	t := &q.tags[tag]
	t.Since, t.Sector, t.Bytes, t.Op = q.now, sector, bytes, op
}

// Answered records a request that the server answered as soon as it had it, in
// place of Start and Done. Its latency is not measured.
func (q *Queue) Answered(op uint8, bytes uint32, res int32) {
	if q == nil {
		return
	}
	c := &q.b.Count[KindOf(op)]
	c.IOs++
	if res < 0 {
		c.Errors++
	} else {
		c.Bytes += uint64(bytes)
	}
}

// Done records that the server answered tag with res.
func (q *Queue) Done(tag uint16, res int32) {
	if q == nil {
		return
	}
	t := &q.tags[tag]
	k := KindOf(t.Op)
	c := &q.b.Count[k]
	c.IOs++
	if res < 0 {
		c.Errors++
	} else {
		c.Bytes += uint64(t.Bytes)
	}
	ns := uint64(q.now - t.Since)
	c.TimeNS += ns
	q.b.Hist[histOf(k)][bucketOf(ns)]++
	t.Since = 0
}
