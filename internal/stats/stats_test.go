package stats

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

func TestBuckets(t *testing.T) {
	prev := -1
	for _, ns := range []uint64{0, 1, 7, 8, 9, 15, 16, 17, 1000, 84_000, 5_000_000, 1 << 39, 1<<40 - 1, 1 << 40, 1 << 50, ^uint64(0)} {
		i := bucketOf(ns)
		lo, hi := bucketRange(i)
		if ns < lo || ns > hi {
			t.Errorf("%d ns is in bucket %d, which is %d..%d", ns, i, lo, hi)
		}
		if i < prev {
			t.Errorf("%d ns is in bucket %d, below its predecessor's %d", ns, i, prev)
		}
		if i < Buckets-1 && lo >= 8 && float64(hi-lo) > float64(lo)/8 {
			t.Errorf("bucket %d (%d..%d) is wider than an eighth", i, lo, hi)
		}
		prev = i
	}
	for i := 1; i < Buckets; i++ {
		_, hi := bucketRange(i - 1)
		if lo, _ := bucketRange(i); lo != hi+1 {
			t.Fatalf("bucket %d starts at %d, the one before ends at %d", i, lo, hi)
		}
	}
}

func TestQuantile(t *testing.T) {
	var h Histogram
	if _, ok := h.Quantile(0.5); ok {
		t.Fatal("an empty histogram has a median")
	}
	for ns := uint64(1); ns <= 1000; ns++ {
		h[bucketOf(ns*1000)]++
	}
	for _, tt := range []struct {
		p    float64
		want float64
	}{{0.5, 500e3}, {0.99, 990e3}, {1, 1000e3}} {
		got, ok := h.Quantile(tt.p)
		if !ok || float64(got) < tt.want*0.88 || float64(got) > tt.want*1.12 {
			t.Errorf("quantile %v is %d ns, want %v within a bucket", tt.p, got, tt.want)
		}
	}
}

func create(t *testing.T, queues, depth int) (*Writer, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "stats")
	w, err := Create(path, 5, queues, depth)
	if err != nil {
		t.Fatal(err)
	}
	return w, path
}

func TestRoundTrip(t *testing.T) {
	w, path := create(t, 2, 16)
	q := w.Queue(1)
	q.SetThread(77)
	q.Begin(1000)
	q.Start(3, 1, 4096, 8192)
	q.Start(4, 0, 8, 512)
	q.End()
	q.Begin(5000)
	q.Done(3, 8192)
	q.Start(3, 5, 0, 1<<20)
	q.End()
	q.Begin(6000)
	q.Done(3, -5)
	q.End()

	p, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if p.Queues() != 2 || p.Depth() != 16 || p.DevID() != 5 || p.PID() != os.Getpid() {
		t.Fatalf("header: %+v", p.hdr)
	}
	s, err := p.Queue(1)
	if err != nil {
		t.Fatal(err)
	}
	if s.Torn || s.TID != 77 || s.Now != 6000 {
		t.Errorf("torn %v, tid %d, now %d", s.Torn, s.TID, s.Now)
	}
	if got, want := s.Count[Write], (Counters{IOs: 1, Bytes: 8192, TimeNS: 4000}); got != want {
		t.Errorf("writes: %+v, want %+v", got, want)
	}
	if got, want := s.Count[WriteZeroes], (Counters{IOs: 1, Errors: 1, TimeNS: 1000}); got != want {
		t.Errorf("write-zeroes: %+v, want %+v", got, want)
	}
	if len(s.Tags) != 1 || s.Tags[0] != (Tag{Queue: 1, Tag: 4, Op: 0, Kind: Read, Sector: 8, Bytes: 512, Since: 1000}) {
		t.Errorf("held: %+v", s.Tags)
	}
	if s.Hist[Write].Total() != 1 || s.Hist[2].Total() != 1 || s.Hist[Read].Total() != 0 {
		t.Error("latencies are in the wrong histogram")
	}
	if s0, err := p.Queue(0); err != nil || s0.Count[Write].IOs != 0 || len(s0.Tags) != 0 {
		t.Errorf("queue 0 is not empty: %+v, %v", s0, err)
	}
	// The page outlives its writer.
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err := p.Queue(1); err != nil || len(s.Tags) != 1 {
		t.Errorf("after the writer: %+v, %v", s, err)
	}
}

// TestTorn is a server that was killed inside a batch.
func TestTorn(t *testing.T) {
	w, path := create(t, 1, 4)
	q := w.Queue(0)
	q.Begin(10)
	q.Start(2, 1, 1, 512)
	p, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	s, err := p.Queue(0)
	if err != nil || !s.Torn || len(s.Tags) != 1 {
		t.Fatalf("torn page: %+v, %v", s, err)
	}
}

// TestConsistent reads while a writer keeps two counters equal: no reading that
// is not torn may see them apart.
func TestConsistent(t *testing.T) {
	w, path := create(t, 1, 4)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		q := w.Queue(0)
		for now := int64(1); ; now++ {
			select {
			case <-stop:
				return
			default:
			}
			q.Begin(now)
			q.Start(0, 0, 0, 512)
			q.Done(0, 512)
			q.Start(1, 1, 0, 512)
			q.Done(1, 512)
			q.End()
		}
	})
	p, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	good := 0
	for range 2000 {
		s, err := p.Queue(0)
		if err != nil {
			t.Fatal(err)
		}
		if s.Torn {
			continue
		}
		good++
		if s.Count[Read].IOs != s.Count[Write].IOs {
			t.Fatalf("%d reads and %d writes in one reading", s.Count[Read].IOs, s.Count[Write].IOs)
		}
	}
	close(stop)
	wg.Wait()
	if good == 0 {
		t.Error("no consistent reading at all")
	}
}

func TestCreateRefuses(t *testing.T) {
	_, path := create(t, 1, 1)
	if _, err := Create(path, 0, 1, 1); !errors.Is(err, os.ErrExist) {
		t.Errorf("an existing page: %v", err)
	}
	for _, tt := range [][2]int{{0, 1}, {1, 0}, {4097, 1}, {1, 4097}} {
		if _, err := Create(filepath.Join(t.TempDir(), "x"), 0, tt[0], tt[1]); err == nil {
			t.Errorf("%d queues of depth %d were accepted", tt[0], tt[1])
		}
	}
}

func TestNilQueue(t *testing.T) {
	var w *Writer
	q := w.Queue(0)
	q.SetThread(1)
	q.Begin(1)
	q.Start(0, 0, 0, 0)
	q.Done(0, 0)
	q.End()
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}

func TestNoAllocations(t *testing.T) {
	w, _ := create(t, 1, 4)
	q := w.Queue(0)
	if n := testing.AllocsPerRun(1000, func() {
		q.Begin(Now())
		q.Start(0, 0, 0, 512)
		q.Done(0, 512)
		q.End()
	}); n != 0 {
		t.Errorf("%v allocations a batch", n)
	}
}

type closer struct{}

func (closer) Close() error { return nil }

// FuzzPage feeds files that may be anything.
func FuzzPage(f *testing.F) {
	path := filepath.Join(f.TempDir(), "stats")
	if _, err := Create(path, 1, 1, 2); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:pageSize])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := newPage(bytes.NewReader(data), closer{})
		if err != nil {
			return
		}
		for i := range min(p.Queues(), 4) {
			if s, err := p.Queue(i); err == nil {
				s.Hist[0].Quantile(0.99)
			}
		}
	})
}

func BenchmarkStartDone(b *testing.B) {
	w, err := Create(filepath.Join(b.TempDir(), "stats"), 0, 1, 4)
	if err != nil {
		b.Fatal(err)
	}
	q := w.Queue(0)
	q.Begin(1)
	for b.Loop() {
		q.Start(0, 0, 0, 512)
		q.Done(0, 512)
	}
}
