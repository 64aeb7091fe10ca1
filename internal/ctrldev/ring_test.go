package ctrldev

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublk/internal/uapi"
	"ublk/internal/uring"
)

// newRing is a Ring on a file that is not the driver's.
func newRing(t *testing.T) *Ring {
	t.Helper()
	r, err := uring.New(uring.Config{Entries: 1, SQE128: true})
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
		t.Skipf("needs io_uring: %v", err)
	}
	if err = errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	d := &Ring{file: f}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func slots(d *Ring) (idle, lost int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.idle), len(d.lost)
}

// A file that knows no commands refuses them all; the slot is used again.
func TestSubmitRefused(t *testing.T) {
	d := newRing(t)
	for range 3 {
		c := Command{Op: uapi.CmdGetFeatures, Path: "/dev/ublkc0", Buf: []byte("abcdefgh")}
		if _, err := d.Submit(t.Context(), &c); err != unix.EOPNOTSUPP {
			t.Fatalf("%v, want the bare errno", err)
		}
		if string(c.Buf) != "abcdefgh" {
			t.Errorf("payload %q", c.Buf)
		}
	}
	if idle, lost := slots(d); idle != 1 || lost != 0 {
		t.Errorf("%d slots idle, %d lost", idle, lost)
	}
}

func TestSubmitSizes(t *testing.T) {
	d := newRing(t)
	for _, tt := range []struct {
		path string
		n    int
		want error
	}{
		{"", 0, unix.EOPNOTSUPP},
		{"", 8192, unix.EOPNOTSUPP},
		{"/dev/ublkc0", 60000, unix.EOPNOTSUPP},
		{"/dev/ublkc0", 65535 - 12, unix.EOPNOTSUPP},
		{"/dev/ublkc0", 65535 - 11, unix.EINVAL}, // would be cut off
		{"", 1 << 20, unix.EINVAL},
	} {
		if _, err := d.Submit(t.Context(), &Command{Path: tt.path, Buf: make([]byte, tt.n)}); err != tt.want {
			t.Errorf("path %q and %d bytes: %v", tt.path, tt.n, err)
		}
	}
}

func TestSubmitConcurrently(t *testing.T) {
	d := newRing(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if _, err := d.Submit(t.Context(), &Command{Buf: make([]byte, 64)}); err != unix.EOPNOTSUPP {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if idle, lost := slots(d); idle < 1 || idle > 8 || lost != 0 {
		t.Errorf("%d slots idle, %d lost", idle, lost)
	}
}

func TestSubmitWithEndedContext(t *testing.T) {
	d := newRing(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Submit(ctx, &Command{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if idle, lost := slots(d); idle != 0 || lost != 0 {
		t.Errorf("%d slots idle, %d lost", idle, lost)
	}
}

// pending puts an operation in a slot that waits as a command does: a read of
// an empty pipe. It returns the pipe's other end.
func pending(t *testing.T, s *slot, flags uint8) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = r.Close(), w.Close() })
	sqe := s.ring.SQE128()
	sqe.Opcode, sqe.Flags, sqe.Fd, sqe.Off, sqe.UserData = uapi.RingOpRead, flags, int32(r.Fd()), ^uint64(0), tagCommand
	sqe.Addr, sqe.Len = uring.Addr(s.mem), 1
	if err := s.ring.Flush(); err != nil {
		t.Fatal(err)
	}
	s.busy = true
	return w
}

func TestAwaitCompletion(t *testing.T) {
	d := newRing(t)
	s, err := d.take(64)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	w := pending(t, s, 0)
	if _, err := w.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	if res, err := s.await(ctx); res != 1 || err != nil {
		t.Fatalf("%d, %v", res, err)
	}
	if err := d.put(s, true); err != nil {
		t.Fatal(err)
	}
	if idle, lost := slots(d); idle != 1 || lost != 0 {
		t.Errorf("%d slots idle, %d lost", idle, lost)
	}
}

// What waits interruptibly is cancelled, in line (poll) and in a worker, and
// leaves a slot behind that the next command can use.
func TestAwaitCancels(t *testing.T) {
	for name, flags := range map[string]uint8{"polled": 0, "in a worker": uapi.SQEAsync} {
		t.Run(name, func(t *testing.T) {
			d := newRing(t)
			s, err := d.take(64)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			pending(t, s, flags)
			time.AfterFunc(10*time.Millisecond, cancel)
			res, err := s.await(ctx)
			if err != nil || res != -int32(unix.ECANCELED) && res != -int32(unix.EINTR) {
				t.Fatalf("%d, %v", res, err)
			}
			if err := d.put(s, true); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				if _, err := d.Submit(t.Context(), &Command{}); err != unix.EOPNOTSUPP {
					t.Errorf("the slot's next command: %v", err)
				}
			}
			if idle, _ := slots(d); idle != 1 {
				t.Errorf("%d slots idle", idle)
			}
		})
	}
}

// A slot that is given up is neither used again nor freed before its command
// has completed.
func TestLostSlot(t *testing.T) {
	d := newRing(t)
	s, err := d.take(64)
	if err != nil {
		t.Fatal(err)
	}
	w := pending(t, s, 0)
	if err := d.put(s, false); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Submit(t.Context(), &Command{}); err != unix.EOPNOTSUPP {
		t.Error(err)
	}
	if idle, lost := slots(d); idle != 1 || lost != 1 {
		t.Fatalf("%d slots idle, %d lost", idle, lost)
	}
	if _, err := w.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	fds := []unix.PollFd{{Fd: int32(s.ring.FD()), Events: unix.POLLIN}}
	if n, err := unix.Poll(fds, 10_000); n != 1 {
		t.Fatalf("no completion: %v", err)
	}
	if _, err := d.Submit(t.Context(), &Command{}); err != unix.EOPNOTSUPP {
		t.Error(err)
	}
	if idle, lost := slots(d); idle != 2 || lost != 0 {
		t.Errorf("%d slots idle, %d lost", idle, lost)
	}
}

func TestOpen(t *testing.T) {
	d, err := Open()
	switch {
	case err == nil:
		err = d.Close()
	case os.IsNotExist(err), os.IsPermission(err):
		err = nil
	}
	if err != nil {
		t.Error(err)
	}
}
