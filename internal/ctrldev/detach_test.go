package ctrldev_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublk/internal/ctrldev"
	"ublk/internal/ctrldev/fake"
	"ublk/internal/uapi"
)

// helperEnv turns the test binary into the helper process.
const helperEnv = "UBLK_TEST_HELPER"

func TestMain(m *testing.M) {
	if os.Getenv(helperEnv) == "" {
		os.Exit(m.Run())
	}
	if err := ctrldev.Serve(helperDriver(), os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// helperDriver has device 0, which a server holds, and commands that fail or
// hang in every way.
func helperDriver() ctrldev.Driver {
	drv := fake.New(fake.Options{})
	info := uapi.DevInfo{NrHWQueues: 1, QueueDepth: 1, MaxIOBufBytes: 1 << 20}
	_, err := drv.Submit(context.Background(), &ctrldev.Command{Op: uapi.CmdAddDev, QueueID: uapi.AllQueues, Buf: uapi.Bytes(&info)})
	if err != nil {
		panic(err)
	}
	drv.Freeze(uapi.CmdStopDev, false)
	drv.Freeze(uapi.CmdStartDev, true)
	return troubled{drv}
}

// troubled dies of one command and answers another with an error that is not
// the driver's.
type troubled struct{ *fake.Driver }

func (d troubled) Submit(ctx context.Context, c *ctrldev.Command) (int32, error) {
	switch c.Op {
	case uapi.CmdUpdateSize:
		os.Exit(3)
	case uapi.CmdQuiesceDev:
		return 0, os.NewSyscallError("io_uring_setup", unix.EPERM)
	case uapi.CmdTryStopDev:
		return 0, errors.New("out of luck")
	}
	return d.Driver.Submit(ctx, c)
}

// detached is a Detached whose helpers are this binary; started counts them.
func detached(t *testing.T) (d *ctrldev.Detached, inline *fake.Driver, started func() int) {
	t.Helper()
	inline = fake.New(fake.Options{})
	var mu sync.Mutex
	n := 0
	d = ctrldev.Detach(inline, func() *exec.Cmd {
		mu.Lock()
		defer mu.Unlock()
		n++
		cmd := ctrldev.HelperCommand()
		cmd.Env = append(os.Environ(), helperEnv+"=1")
		return cmd
	})
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d, inline, func() int { mu.Lock(); defer mu.Unlock(); return n }
}

func device(op uint32) *ctrldev.Command { return &ctrldev.Command{Op: op, QueueID: uapi.AllQueues} }

func TestDetachedResults(t *testing.T) {
	d, _, started := detached(t)
	info := uapi.DevInfo{NrHWQueues: 1, QueueDepth: 1, MaxIOBufBytes: 1<<20 + 1, DevID: uapi.AnyDevice}
	add := ctrldev.Command{Op: uapi.CmdAddDev, DevID: uapi.AnyDevice, QueueID: uapi.AllQueues, Buf: uapi.Bytes(&info)}
	if _, err := d.Submit(t.Context(), &add); err != nil {
		t.Fatal(err)
	}
	if info.DevID != 1 || info.MaxIOBufBytes != 1<<20 {
		t.Errorf("nothing was copied back: %+v", info)
	}
	for id, want := range map[uint32]error{0: nil, 77: unix.ENODEV} {
		c := ctrldev.Command{Op: uapi.CmdDelDevAsync, DevID: id, QueueID: uapi.AllQueues}
		if _, err := d.Submit(t.Context(), &c); err != want {
			t.Errorf("device %d: %v, want the bare %v", id, err, want)
		}
	}
	if n := started(); n != 1 {
		t.Errorf("%d helpers for one command after another", n)
	}
}

func TestDetachedErrors(t *testing.T) {
	d, _, _ := detached(t)
	_, err := d.Submit(t.Context(), device(uapi.CmdQuiesceDev))
	var sys *os.SyscallError
	if !errors.As(err, &sys) || sys.Syscall != "io_uring_setup" || !errors.Is(err, unix.EPERM) {
		t.Errorf("system call: %v", err)
	}
	if _, err = d.Submit(t.Context(), device(uapi.CmdTryStopDev)); err == nil || err.Error() != "out of luck" {
		t.Errorf("other error: %v", err)
	}
	if _, err = d.Submit(t.Context(), device(uapi.CmdUpdateSize)); !errors.Is(err, io.EOF) || !strings.HasPrefix(err.Error(), "control helper: ") {
		t.Errorf("helper that died: %v", err)
	}
	if _, err = d.Submit(t.Context(), device(uapi.CmdDelDevAsync)); err != nil {
		t.Errorf("after that: %v", err)
	}
}

func TestDetachedDeadline(t *testing.T) {
	for name, op := range map[string]uint32{"interruptible": uapi.CmdStartDev, "stuck": uapi.CmdStopDev} {
		t.Run(name, func(t *testing.T) {
			d, _, started := detached(t)
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			buf := make([]byte, 8)
			c := device(op)
			c.Buf = buf
			if _, err := d.Submit(ctx, c); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
			buf[0] = 1 // ours again: the race detector watches
			if _, err := d.Submit(t.Context(), device(uapi.CmdDelDevAsync)); err != nil {
				t.Errorf("the next command: %v", err)
			}
			if n := started(); n != 2 {
				t.Errorf("%d helpers", n)
			}
		})
	}
}

// A command that hangs takes nothing from the deadline of the others.
func TestDetachedConcurrently(t *testing.T) {
	d, _, _ := detached(t)
	ctx, cancel := context.WithCancel(t.Context())
	hung := make(chan error)
	go func() {
		_, err := d.Submit(ctx, device(uapi.CmdStopDev))
		hung <- err
	}()
	if _, err := d.Submit(t.Context(), device(uapi.CmdDelDevAsync)); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-hung; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Commands that cannot hang and REG_BUF stay in this process.
func TestDetachedInline(t *testing.T) {
	d, inline, started := detached(t)
	ops := []uint32{uapi.CmdGetFeatures, uapi.CmdGetDevInfo, uapi.CmdGetDevInfo2, uapi.CmdGetQueueAffinity, uapi.CmdRegBuf}
	for _, op := range ops {
		_, _ = d.Submit(t.Context(), device(op))
	}
	if n := started(); n != 0 {
		t.Errorf("%d helpers", n)
	}
	if h := inline.History(); len(h) != len(ops) {
		t.Errorf("%d commands were submitted here", len(h))
	}
}

func TestDetachedWithoutHelper(t *testing.T) {
	d := ctrldev.Detach(fake.New(fake.Options{}), func() *exec.Cmd { return exec.Command("/nonexistent") })
	if _, err := d.Submit(t.Context(), device(uapi.CmdStopDev)); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// The helper ends with its input, even in the middle of a command.
func TestServeEnds(t *testing.T) {
	for name, op := range map[string]uint32{"idle": 0, "interruptible": uapi.CmdStartDev, "stuck": uapi.CmdStopDev} {
		t.Run(name, func(t *testing.T) {
			drv := helperDriver().(troubled)
			toHelper, in, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer toHelper.Close()
			ended := make(chan error)
			go func() { ended <- ctrldev.Serve(drv, toHelper, io.Discard) }()
			if op != 0 {
				if err := ctrldev.EncodeRequest(in, *device(op)); err != nil {
					t.Fatal(err)
				}
				if err := drv.Wait(t.Context(), 1); err != nil {
					t.Fatal(err)
				}
			}
			if err := in.Close(); err != nil {
				t.Fatal(err)
			}
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestServeGarbage(t *testing.T) {
	if err := ctrldev.Serve(helperDriver(), strings.NewReader("\x03abcdefgh"), io.Discard); err == nil {
		t.Error("garbage was served")
	}
}
