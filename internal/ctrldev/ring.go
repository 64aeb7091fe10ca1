package ctrldev

import (
	"context"
	"errors"
	"math"
	"os"
	"runtime"
	"slices"
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

	mu     sync.Mutex
	closed bool
	idle   []*slot
	lost   []*slot // of commands that were given up and are still in the kernel
}

type slot struct {
	ring *uring.Ring
	mem  []byte
	wake int  // eventfd: the context has ended
	busy bool // the kernel has a command that has not completed
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

// Close frees what no command uses any more. No Submit may begin after it.
func (d *Ring) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	d.reclaim()
	var errs []error
	for _, s := range d.idle {
		errs = append(errs, s.close())
	}
	for _, s := range d.lost { // without its memory, which the kernel may still write to
		errs = append(errs, s.ring.Close(), unix.Close(s.wake))
	}
	d.idle, d.lost = nil, nil
	return errors.Join(append(errs, d.file.Close())...)
}

// Submit implements Driver.
func (d *Ring) Submit(ctx context.Context, c *Command) (int32, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	size := len(c.Path) + 1 + len(c.Buf)
	if size > math.MaxUint16 { // a command has 16 bits for it
		return 0, unix.EINVAL
	}
	s, err := d.take(size)
	if err != nil {
		return 0, err
	}
	res, err := s.run(ctx, int32(d.file.Fd()), c)
	if perr := d.put(s, err == nil); err == nil {
		err = perr
	}
	if err != nil {
		return 0, err
	}
	switch {
	case ctx.Err() != nil && (res == -int32(unix.EINTR) || res == -int32(unix.ECANCELED)):
		return 0, ctx.Err()
	case res < 0:
		return 0, unix.Errno(-res)
	}
	return res, nil
}

// take finds an idle slot with room for that many bytes or makes one.
func (d *Ring) take(bytes int) (*slot, error) {
	d.mu.Lock()
	d.reclaim()
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

// put takes a slot back. One whose command did not complete must not be used
// before it has: the kernel still writes to its memory.
func (d *Ring) put(s *slot, healthy bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case s.busy:
		d.lost = append(d.lost, s)
	case !healthy || d.closed:
		return s.close()
	default:
		d.idle = append(d.idle, s)
	}
	return nil
}

// reclaim makes idle what was lost and has completed since. d.mu is held.
func (d *Ring) reclaim() {
	d.lost = slices.DeleteFunc(d.lost, func(s *slot) bool {
		_, ok := s.reap()
		if ok {
			d.idle = append(d.idle, s)
		}
		return ok
	})
}

func (s *slot) close() error {
	return errors.Join(s.ring.Close(), uring.Unmap(s.mem), unix.Close(s.wake))
}

// run submits c and waits for its completion; the result may be an errno. With
// an error the command has not completed. The completion is posted by work that
// the kernel queues to the submitting thread, so the thread is held.
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
	err := s.ring.Flush()
	s.busy = s.ring.Pending() == 0
	if err != nil {
		return 0, err
	}
	res, ok := s.reap()
	if !ok {
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
			res, ok, s.busy = cqe.Res, true, false
		}
	}
	s.ring.Advance(n)
	return res, ok
}

// await sleeps until the command completes. When ctx ends it cancels the
// command and allows it cancelGrace to return; then the error is ctx's.
func (s *slot) await(ctx context.Context) (int32, error) {
	one := [8]byte{0: 1, 7: 1} // not zero in either byte order
	stop := context.AfterFunc(ctx, func() { _, _ = unix.Write(s.wake, one[:]) })
	defer func() {
		if !stop() {
			s.drain()
		}
	}()
	fds := []unix.PollFd{{Fd: int32(s.ring.FD()), Events: unix.POLLIN}, {Fd: int32(s.wake), Events: unix.POLLIN}}
	timeout, deadline := -1, time.Time{}
	for {
		_, err := unix.Poll(fds, timeout)
		if err != nil && err != unix.EINTR {
			return 0, os.NewSyscallError("poll", err)
		}
		if res, ok := s.reap(); ok {
			return res, nil
		}
		if ctx.Err() == nil {
			continue
		}
		if deadline.IsZero() {
			deadline, fds = time.Now().Add(cancelGrace), fds[:1]
			if err := s.cancel(); err != nil {
				return 0, err
			}
		}
		if timeout = int(time.Until(deadline).Milliseconds()); timeout <= 0 {
			return 0, ctx.Err()
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

// drain resets the eventfd, which has been written or is about to be.
func (s *slot) drain() {
	var b [8]byte
	fds := []unix.PollFd{{Fd: int32(s.wake), Events: unix.POLLIN}}
	for {
		if n, err := unix.Poll(fds, -1); n > 0 || (err != nil && err != unix.EINTR) {
			break
		}
	}
	_, _ = unix.Read(s.wake, b[:])
}
