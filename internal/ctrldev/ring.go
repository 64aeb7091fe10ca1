package ctrldev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ublk/internal/uapi"
	"ublk/internal/uring"
)

// cancelGrace is how long a cancelled command may take to come back before it
// is given up. Commands that sleep interruptibly return at once; the others
// sit behind a mutex or in disk removal until somebody kills the server.
const cancelGrace = 300 * time.Millisecond

const (
	tagCommand = 1
	tagCancel  = 2
)

// Ring submits commands through io_uring. Every command in flight has a ring
// and a buffer of its own, so a command that never returns holds up nobody
// else; idle ones are kept for the next command.
type Ring struct {
	file *os.File

	mu   sync.Mutex
	idle []*slot
}

type slot struct {
	ring *uring.Ring
	mem  []byte
	wake int // eventfd: the context has ended
}

// Open opens the control node. Errors are those of open(2): fs.ErrNotExist when
// the driver is not loaded, fs.ErrPermission when the caller may not use it.
func Open() (*Ring, error) {
	f, err := os.OpenFile(ControlPath, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return &Ring{file: f}, nil
}

// Close frees what no command uses any more.
func (d *Ring) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for _, s := range d.idle {
		errs = append(errs, s.close())
	}
	d.idle = nil
	return errors.Join(append(errs, d.file.Close())...)
}

// Submit implements Driver.
func (d *Ring) Submit(ctx context.Context, c *Command) (int32, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s, err := d.take(len(c.Path) + 1 + len(c.Buf))
	if err != nil {
		return 0, err
	}
	res, err := s.run(ctx, int32(d.file.Fd()), c)
	if errors.Is(err, errGivenUp) {
		return 0, ctx.Err() // the kernel may still use the slot: never reuse it
	}
	d.mu.Lock()
	d.idle = append(d.idle, s)
	d.mu.Unlock()
	if err != nil {
		return 0, err
	}
	if res < 0 {
		return 0, unix.Errno(-res)
	}
	return res, nil
}

func (d *Ring) take(bytes int) (*slot, error) {
	d.mu.Lock()
	if n := len(d.idle); n > 0 && len(d.idle[n-1].mem) >= bytes {
		s := d.idle[n-1]
		d.idle = d.idle[:n-1]
		d.mu.Unlock()
		return s, nil
	}
	d.mu.Unlock()
	ring, err := uring.New(uring.Config{Entries: 4, SQE128: true})
	if err != nil {
		return nil, err
	}
	mem, err := uring.Map(max(bytes, 8192))
	if err != nil {
		return nil, errors.Join(err, ring.Close())
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, errors.Join(os.NewSyscallError("eventfd", err), uring.Unmap(mem), ring.Close())
	}
	return &slot{ring: ring, mem: mem, wake: wake}, nil
}

func (s *slot) close() error {
	return errors.Join(s.ring.Close(), uring.Unmap(s.mem), unix.Close(s.wake))
}

var errGivenUp = errors.New("command given up")

// run submits c and waits for its completion. The completion is posted by work
// that the kernel queues to the submitting thread, so the thread is held.
func (s *slot) run(ctx context.Context, fd int32, c *Command) (int32, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	path := s.fill(c)
	sqe := s.ring.SQE128()
	sqe.Opcode, sqe.Fd, sqe.Off, sqe.UserData = uapi.RingOpURingCmd, fd, uint64(c.Op), tagCommand
	cmd := sqe.CtrlCmd()
	cmd.DevID, cmd.QueueID, cmd.Data = c.DevID, c.QueueID, c.Data
	if n := path + len(c.Buf); n > 0 {
		cmd.Addr, cmd.Len, cmd.DevPathLen = uring.Addr(s.mem), uint16(n), uint16(path)
	}
	if err := s.ring.Flush(); err != nil {
		return 0, err
	}
	res, ok := s.reap()
	if !ok {
		var err error
		if res, err = s.await(ctx); err != nil {
			return 0, err
		}
	}
	copy(c.Buf, s.mem[path:])
	return res, nil
}

// fill lays out path and payload and returns the length of the path with its NUL.
func (s *slot) fill(c *Command) int {
	n := 0
	if c.Path != "" {
		n = copy(s.mem, c.Path)
		s.mem[n] = 0
		n++
	}
	copy(s.mem[n:], c.Buf)
	return n
}

// reap reads completions; ok says that the command's own was among them.
func (s *slot) reap() (res int32, ok bool) {
	n := s.ring.Ready()
	for i := range n {
		if cqe := s.ring.CQE(i); cqe.UserData == tagCommand {
			res, ok = cqe.Res, true
		}
	}
	s.ring.Advance(n)
	return res, ok
}

// await sleeps until the command completes. When ctx ends it cancels the
// command and allows it cancelGrace to return.
func (s *slot) await(ctx context.Context) (int32, error) {
	one := [8]byte{0: 1, 7: 1} // not zero in either byte order
	stop := context.AfterFunc(ctx, func() { _, _ = unix.Write(s.wake, one[:]) })
	fds := []unix.PollFd{{Fd: int32(s.ring.FD()), Events: unix.POLLIN}, {Fd: int32(s.wake), Events: unix.POLLIN}}
	timeout, cancelled := -1, false
	for {
		n, err := unix.Poll(fds, timeout)
		if err != nil && err != unix.EINTR {
			return 0, os.NewSyscallError("poll", err)
		}
		if res, ok := s.reap(); ok {
			if cancelled && (res == -int32(unix.EINTR) || res == -int32(unix.ECANCELED)) {
				s.drain()
				return 0, ctx.Err()
			}
			if !stop() { // the wake-up was sent, or is just being sent
				s.drain()
			}
			return res, nil
		}
		switch {
		case err == nil && n == 0:
			return 0, fmt.Errorf("%w: %w", errGivenUp, ctx.Err())
		case ctx.Err() != nil && !cancelled:
			cancelled, timeout, fds = true, int(cancelGrace.Milliseconds()), fds[:1]
			if err := s.cancel(); err != nil {
				return 0, err
			}
		}
	}
}

// cancel asks io_uring to end the command: a worker that sleeps interruptibly
// is sent a signal.
func (s *slot) cancel() error {
	sqe := s.ring.SQE128()
	sqe.Opcode, sqe.Fd, sqe.Addr, sqe.UserData = uapi.RingOpAsyncCancel, -1, tagCommand, tagCancel
	return s.ring.Flush()
}

// drain makes the slot fit for reuse after its context has ended: the eventfd
// has been or is about to be written, so wait for that and reset it.
func (s *slot) drain() {
	var b [8]byte
	fds := []unix.PollFd{{Fd: int32(s.wake), Events: unix.POLLIN}}
	for {
		if n, err := unix.Poll(fds, -1); n > 0 || (err != nil && err != unix.EINTR) {
			break
		}
	}
	_, _ = unix.Read(s.wake, b[:])
	s.reap()
}
