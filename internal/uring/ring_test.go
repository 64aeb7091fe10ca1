package uring

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublk/internal/uapi"
)

// newRing is a ring on a locked thread, or a skip that names what is missing.
func newRing(t *testing.T, cfg Config) *Ring {
	t.Helper()
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	r, err := New(cfg)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
		t.Skipf("io_uring is not available here: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return r
}

// wait reads n completions.
func wait(t *testing.T, r *Ring, n int) []uapi.CQE {
	t.Helper()
	var got []uapi.CQE
	for len(got) < n {
		if err := r.Wait(); err != nil {
			t.Fatal(err)
		}
		ready := r.Ready()
		for i := range ready {
			got = append(got, *r.CQE(i))
		}
		r.Advance(ready)
	}
	return got
}

var configs = map[string]Config{
	"plain":  {Entries: 8},
	"single": {Entries: 8, CQEntries: 64, SingleIssuer: true},
}

func TestNop(t *testing.T) {
	for name, cfg := range configs {
		t.Run(name, func(t *testing.T) {
			r := newRing(t, cfg)
			if err := r.RegisterRing(); err != nil {
				t.Fatal(err)
			}
			for round := range 100 {
				for i := range 5 {
					s := r.SQE()
					s.Opcode, s.UserData = uapi.RingOpNop, uint64(round*5+i)
				}
				for i, c := range wait(t, r, 5) {
					if c.UserData != uint64(round*5+i) || c.Res != 0 {
						t.Fatalf("round %d: completion %d is %+v", round, i, c)
					}
				}
			}
		})
	}
}

// TestFullQueue hands out every entry, is refused the next, and loses none.
func TestFullQueue(t *testing.T) {
	r := newRing(t, Config{Entries: 8, CQEntries: 64, SingleIssuer: true})
	for i := range 8 {
		r.SQE().UserData = uint64(i)
	}
	if r.SQE() != nil || r.Space() != 0 || r.Pending() != 8 {
		t.Fatalf("a ninth entry of eight: space %d, pending %d", r.Space(), r.Pending())
	}
	if err := r.Flush(); err != nil {
		t.Fatal(err)
	}
	if r.Pending() != 0 {
		t.Fatalf("%d entries pending after Flush", r.Pending())
	}
	r.SQE().UserData = 8
	seen := map[uint64]bool{}
	for _, c := range wait(t, r, 9) {
		seen[c.UserData] = true
	}
	if len(seen) != 9 {
		t.Fatalf("completions of %d entries, want 9", len(seen))
	}
}

// TestOverflow submits more than the completion queue holds. Nothing is lost:
// the kernel keeps what does not fit until it has been asked again.
func TestOverflow(t *testing.T) {
	r := newRing(t, Config{Entries: 8, CQEntries: 8})
	for i := range 32 {
		s := r.SQE()
		for s == nil {
			if err := r.Flush(); err != nil && !errors.Is(err, unix.EBUSY) {
				t.Fatal(err)
			}
			s = r.SQE()
		}
		s.UserData = uint64(i)
	}
	if got := len(wait(t, r, 32)); got != 32 {
		t.Fatalf("%d completions, want 32", got)
	}
}

func TestReadWriteFixed(t *testing.T) {
	for name, cfg := range configs {
		t.Run(name, func(t *testing.T) {
			r := newRing(t, cfg)
			f, err := os.Create(filepath.Join(t.TempDir(), "f"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			mem, err := Map(8192)
			if err != nil {
				t.Fatal(err)
			}
			defer Unmap(mem)
			if err := r.RegisterFiles([]int32{int32(f.Fd())}); err != nil {
				t.Fatal(err)
			}
			if err := r.RegisterBuffers([][]byte{mem}); err != nil {
				t.Fatal(err)
			}
			want := bytes.Repeat([]byte("ublk"), 1024)
			copy(mem, want)
			for _, op := range []uint8{uapi.RingOpWriteFixed, uapi.RingOpReadFixed} {
				s := r.SQE()
				s.Opcode, s.Flags, s.Addr, s.Len = op, uapi.SQEFixedFile, Addr(mem), 4096
				if op == uapi.RingOpReadFixed {
					s.Addr += 4096
				}
				if c := wait(t, r, 1)[0]; c.Res != 4096 {
					t.Fatalf("op %d: %v", op, unix.Errno(-c.Res))
				}
			}
			if !bytes.Equal(mem[4096:], want) {
				t.Fatal("what was read is not what was written")
			}
		})
	}
}

// TestWaitRaw sleeps under a timeout of the ring and returns with it.
func TestWaitRaw(t *testing.T) {
	r := newRing(t, Config{Entries: 8, SingleIssuer: true})
	mem, err := Map(4096)
	if err != nil {
		t.Fatal(err)
	}
	defer Unmap(mem)
	Timespec(mem).Nsec = int64(2 * time.Millisecond)
	s := r.SQE()
	s.Opcode, s.Fd, s.Addr, s.Len, s.UserData = uapi.RingOpTimeout, -1, Addr(mem), 1, 7
	for r.Ready() == 0 {
		if err := r.WaitRaw(); err != nil {
			t.Fatal(err)
		}
	}
	if c := r.CQE(0); c.UserData != 7 || c.Res != -int32(unix.ETIME) {
		t.Fatalf("timeout completed as %+v", c)
	}
	r.Advance(1)
}

// TestMultishotBufferRing reads a pipe with one multishot request and
// provided buffers, through many times the number of buffers.
func TestMultishotBufferRing(t *testing.T) {
	r := newRing(t, Config{Entries: 8, CQEntries: 64, SingleIssuer: true})
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	bufs, err := r.RegisterBufferRing(3, 4, 64)
	if err != nil {
		t.Fatal(err)
	}
	defer bufs.Close()
	arm := func() {
		s := r.SQE()
		s.Opcode, s.Fd, s.Flags, s.BufIndex, s.Off = uapi.RingOpReadMultishot, int32(fds[0]), uapi.SQEBufferSelect, 3, ^uint64(0)
	}
	arm()
	for i := range 50 {
		msg := []byte{byte(i), byte(i + 1), byte(i + 2)}
		if _, err := unix.Write(fds[1], msg); err != nil {
			t.Fatal(err)
		}
		c := wait(t, r, 1)[0]
		if c.Res == -int32(unix.EINVAL) {
			t.Skip("IORING_OP_READ_MULTISHOT needs Linux 6.7")
		}
		if c.Res != 3 || c.Flags&uapi.CQEBuffer == 0 {
			t.Fatalf("message %d: %+v", i, c)
		}
		id := uint16(c.Flags >> uapi.CQEBufferShift)
		if !bytes.Equal(bufs.Buffer(id)[:3], msg) {
			t.Fatalf("message %d: buffer %d holds %v", i, id, bufs.Buffer(id)[:3])
		}
		bufs.Recycle(id)
		if c.Flags&uapi.CQEMore == 0 {
			arm()
		}
	}
}

// TestNoAllocations is rule 7 of the data plane at its lowest layer.
func TestNoAllocations(t *testing.T) {
	r := newRing(t, Config{Entries: 8, SingleIssuer: true})
	if n := testing.AllocsPerRun(1000, func() {
		r.SQE().UserData = 1
		r.SQE().UserData = 2
		if err := r.Poll(); err != nil {
			t.Fatal(err)
		}
		r.Advance(r.Ready())
	}); n != 0 {
		t.Fatalf("%v allocations a batch", n)
	}
}

// TestCloseLeaksNothing opens and closes rings with all registrations.
func TestCloseLeaksNothing(t *testing.T) {
	newRing(t, Config{Entries: 8}) // skips where io_uring is off
	count := func() int {
		e, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(e)
	}
	before := count()
	for range 50 {
		r, err := New(Config{Entries: 8, SingleIssuer: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(r.RegisterRing(), r.RegisterSparseBuffers(8), r.RegisterFiles([]int32{0})); err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if after := count(); after != before {
		t.Fatalf("%d descriptors before, %d after", before, after)
	}
}
