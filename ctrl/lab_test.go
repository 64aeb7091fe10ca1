package ctrl_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublk/internal/ctrldev"
	"ublk/internal/uapi"
	"ublk/internal/uring"
)

// openLab opens the real driver or skips the test; where UBLK_LAB says that
// there must be one, its absence is a failure.
func openLab(t *testing.T) *ctrldev.Ring {
	t.Helper()
	drv, err := ctrldev.Open()
	switch {
	case err == nil:
		t.Cleanup(func() { _ = drv.Close() })
		return drv
	case os.Getenv("UBLK_LAB") != "":
		t.Fatal(err)
	}
	t.Skipf("needs the ublk driver: %v", err)
	return nil
}

// is612 tells the two kernels of the table apart by what they offer, and fails
// on one that is neither: the table has no column for it.
func is612(t *testing.T, drv ctrldev.Driver) bool {
	t.Helper()
	e := env{drv: drv}
	buf := make([]byte, 8)
	if _, err := e.submit(5*second, &ctrldev.Command{Op: uapi.CmdGetFeatures, QueueID: uapi.AllQueues, Buf: buf}); err != nil {
		t.Fatal(err)
	}
	var name unix.Utsname
	_ = unix.Uname(&name)
	release := unix.ByteSliceToString(name.Release[:])
	mask := uint64(buf[0]) | uint64(buf[1])<<8 | uint64(buf[2])<<16
	switch {
	case strings.HasPrefix(release, "6.12.") && mask == 0x1fe:
		return true
	case strings.HasPrefix(release, "7.3.") && mask == 0x1fffff:
		return false
	case strings.HasPrefix(release, "6.12."), strings.HasPrefix(release, "7.3."):
		t.Fatalf("Linux %s offers %#x", release, mask)
	}
	t.Skipf("needs Linux 6.12 or 7.3, this is %s", release)
	return false
}

// TestLabRealAgainstTable holds the real driver against the table that the fake
// one is held against.
func TestLabRealAgainstTable(t *testing.T) {
	drv := openLab(t)
	old := is612(t, drv)
	for name, steps := range table(old) {
		t.Run(name, func(t *testing.T) {
			runtime.LockOSThread() // capabilities are a thread's
			defer runtime.UnlockOSThread()
			e := env{world: newWorld(drv), drv: drv, old: old, pid: os.Getpid(), id: -1}
			defer e.cleanUp()
			e.run(t, steps)
		})
	}
}

// A server that holds a request: STOP_DEV is stuck in the kernel, where nothing
// interrupts it. It is given up at its deadline, it holds up nobody who does
// not need the device's mutex, and it is done once the server is gone.
func TestLabRealStuckStop(t *testing.T) {
	for name, drv := range map[string]ctrldev.Driver{
		"ring":     openLab(t),
		"detached": ctrldev.Detach(openLab(t), helper),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(drv)
			e := env{world: w, drv: drv, old: is612(t, drv), pid: os.Getpid(), id: -1}
			defer e.cleanUp()
			e.run(t, append(live(0), ok("open block", openBlock)))
			w.servers[e.id].hold.Store(true)
			read := make(chan error)
			go func() {
				_, err := w.blocks[e.id].Read(make([]byte, 4096))
				read <- err
			}()
			<-w.servers[e.id].held
			begun := time.Now()
			e.run(t, []step{
				fails(context.DeadlineExceeded, "stop", hangs(uapi.CmdStopDev, 0)),
				ok("info", state(uapi.StateLive)),
				fails(context.DeadlineExceeded, "stop behind it", hangs(uapi.CmdStopDev, 0)),
				ok("info again", state(uapi.StateLive)),
			})
			if d := time.Since(begun); d > 5*second {
				t.Errorf("it took %v to give two commands up", d)
			}
			e.run(t, []step{ok("close", closeChar)})
			if err := <-read; err == nil {
				t.Error("a read that nobody served succeeded")
			}
			e.run(t, []step{stop, ok("dead", state(uapi.StateDead)), ok("close block", closeBlock), del})
		})
	}
}

// cleanUp removes what a failed scenario left behind.
func (e *env) cleanUp() {
	w := e.world.(*kernelWorld)
	for id := range w.servers {
		_ = w.CloseChar(id)
	}
	for id := range w.blocks {
		_ = w.CloseBlock(id)
	}
	w.Become(true)
	e.prefixed = true // what an unprivileged device needs and others do not mind
	for e.id = range 8 {
		_ = cmd(uapi.CmdStopDev, 0)(e)
		_ = cmd(uapi.CmdDelDev, 0)(e)
	}
}

// kernelWorld moves the real world. Its servers live in this process, so a lost
// server is one that has closed its char device.
type kernelWorld struct {
	drv     ctrldev.Driver
	servers map[int]*labServer
	blocks  map[int]*os.File
}

func newWorld(drv ctrldev.Driver) *kernelWorld {
	return &kernelWorld{drv: drv, servers: map[int]*labServer{}, blocks: map[int]*os.File{}}
}

type labServer struct {
	fd   int
	wake int           // eventfd: end
	done chan struct{} // nil before the first fetch
	err  chan error
	hold atomic.Bool   // requests are kept
	held chan struct{} // and told of here
}

func (w *kernelWorld) OpenChar(id, _ int) error {
	fd, err := openRetry(fmt.Sprintf("/dev/ublkc%d", id), w.servers[id] == nil)
	if err != nil {
		return err
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return err
	}
	w.servers[id] = &labServer{fd: fd, wake: wake, err: make(chan error, 1), held: make(chan struct{}, 1)}
	return nil
}

// openRetry opens path. The kernel's worker may not have released the char
// device yet that the last server closed.
func openRetry(path string, patient bool) (int, error) {
	for deadline := time.Now().Add(5 * second); ; time.Sleep(2 * time.Millisecond) {
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != unix.EBUSY || !patient || time.Now().After(deadline) {
			return fd, err
		}
	}
}

func (w *kernelWorld) FetchAll(id int) error {
	s := w.servers[id]
	var i uapi.DevInfo
	node := fmt.Sprintf("/dev/ublkc%d", id)
	if _, err := (&env{drv: w.drv}).submit(5*second, &ctrldev.Command{Op: uapi.CmdGetDevInfo2, DevID: uint32(id), QueueID: uapi.AllQueues, Path: node, Buf: uapi.Bytes(&i)}); err != nil {
		return err
	}
	if s.done != nil { // a second round on the same file: one tag tells
		return s.probe()
	}
	s.done = make(chan struct{})
	go s.serve(int(i.NrHWQueues), int(i.QueueDepth))
	return <-s.err
}

// serve fetches every tag and answers all I/O with EIO until it is woken.
func (s *labServer) serve(queues, depth int) {
	defer close(s.done)
	runtime.LockOSThread() // and never unlocked: the thread ends with its commands
	ring, err := uring.New(uring.Config{Entries: uint32(queues * depth)})
	if err != nil {
		s.err <- err
		return
	}
	defer ring.Close()
	for tag := range queues * depth {
		s.command(ring, uapi.IOFetchReq, depth, uint64(tag), 0)
	}
	if err = ring.Flush(); err == nil {
		err = refusal(ring)
	}
	s.err <- err
	fds := []unix.PollFd{{Fd: int32(ring.FD()), Events: unix.POLLIN}, {Fd: int32(s.wake), Events: unix.POLLIN}}
	for fds[1].Revents == 0 {
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return
		}
		n := ring.Ready()
		for i := range n {
			cqe := ring.CQE(i)
			switch {
			case cqe.Res != 0:
			case s.hold.Load():
				select {
				case s.held <- struct{}{}:
				default:
				}
			default:
				s.command(ring, uapi.IOCommitAndFetch, depth, cqe.UserData, -int32(unix.EIO))
			}
		}
		ring.Advance(n)
		if ring.Flush() != nil {
			return
		}
	}
}

// refusal is the errno of a command that has failed at once.
func refusal(ring *uring.Ring) error {
	for i := range ring.Ready() {
		if res := ring.CQE(i).Res; res < 0 {
			return unix.Errno(-res)
		}
	}
	return nil
}

func (s *labServer) command(ring *uring.Ring, op uint64, depth int, tag uint64, result int32) {
	sqe := ring.SQE()
	sqe.Opcode, sqe.Fd, sqe.Off, sqe.UserData = uapi.RingOpURingCmd, int32(s.fd), op, tag
	c := sqe.IOCmd()
	c.QID, c.Tag, c.Result = uint16(int(tag)/depth), uint16(int(tag)%depth), result
}

// probe fetches tag 0 from a ring of its own and returns the errno.
func (s *labServer) probe() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ring, err := uring.New(uring.Config{Entries: 1})
	if err != nil {
		return err
	}
	defer ring.Close()
	s.command(ring, uapi.IOFetchReq, 1, 0, 0)
	if err := errors.Join(ring.Flush(), ring.Wait()); err != nil {
		return err
	}
	if res := ring.CQE(0).Res; res < 0 {
		return unix.Errno(-res)
	}
	return nil
}

// CloseChar ends the server and waits until the driver has noticed: nothing
// announces that, and it takes a moment more until its worker is through.
func (w *kernelWorld) CloseChar(id int) error {
	s := w.servers[id]
	delete(w.servers, id)
	if s.done != nil {
		if _, err := unix.Write(s.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
			return err
		}
		<-s.done
	}
	if err := errors.Join(unix.Close(s.fd), unix.Close(s.wake)); err != nil {
		return err
	}
	fd, err := openRetry(fmt.Sprintf("/dev/ublkc%d", id), true)
	if err == nil {
		err = unix.Close(fd)
		time.Sleep(50 * time.Millisecond)
	}
	return err
}

// Chown gives read or read and write permission to the owner, who is what an
// unprivileged caller stays here: root without the capabilities of root.
func (w *kernelWorld) Chown(id int, write bool) error {
	mode := os.FileMode(0o400)
	if write {
		mode = 0o600
	}
	return os.Chmod(fmt.Sprintf("/dev/ublkc%d", id), mode)
}

// Become takes capabilities from the calling thread, or gives them back.
func (w *kernelWorld) Become(privileged bool) {
	const override, readSearch, sysAdmin = 1 << unix.CAP_DAC_OVERRIDE, 1 << unix.CAP_DAC_READ_SEARCH, 1 << unix.CAP_SYS_ADMIN
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	err := unix.Capget(&hdr, &data[0])
	if err == nil {
		data[0].Effective = data[0].Permitted
		if !privileged {
			data[0].Effective &^= override | readSearch | sysAdmin
		}
		err = unix.Capset(&hdr, &data[0])
	}
	if err != nil {
		panic(err)
	}
}

func (w *kernelWorld) OpenBlock(id int) error {
	f, err := os.Open(fmt.Sprintf("/dev/ublkb%d", id))
	if err == nil {
		w.blocks[id] = f
	}
	return err
}

func (w *kernelWorld) CloseBlock(id int) error {
	f := w.blocks[id]
	delete(w.blocks, id)
	return f.Close()
}
