package fake_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublk/internal/ctrldev"
	"ublk/internal/ctrldev/fake"
	"ublk/internal/uapi"
)

// The errnos are held against the real driver by the table in package ctrl.
// Here is what that table cannot show: who waits for whom.

const pid = 4411

func add(t *testing.T, d *fake.Driver, flags uint64) {
	t.Helper()
	info := uapi.DevInfo{NrHWQueues: 1, QueueDepth: 4, MaxIOBufBytes: 1 << 20, DevID: uapi.AnyDevice, Flags: flags}
	_, err := d.Submit(t.Context(), &ctrldev.Command{Op: uapi.CmdAddDev, DevID: uapi.AnyDevice, QueueID: uapi.AllQueues, Buf: uapi.Bytes(&info)})
	must(t, err)
	p := uapi.Params{Len: uapi.ParamsLen, Types: uapi.ParamBasic,
		Basic: uapi.ParamsBasic{LogicalBSShift: 9, PhysicalBSShift: 9, MaxSectors: 8, DevSectors: 8}}
	_, err = d.Submit(t.Context(), &ctrldev.Command{Op: uapi.CmdSetParams, DevID: info.DevID, QueueID: uapi.AllQueues, Buf: uapi.Bytes(&p)})
	must(t, err)
}

func live(t *testing.T, flags uint64) *fake.Driver {
	t.Helper()
	d := fake.New(fake.Options{})
	add(t, d, flags)
	must(t, d.OpenChar(0, pid), d.FetchAll(0), send(t.Context(), d, uapi.CmdStartDev, 0, pid))
	return d
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func send(ctx context.Context, d *fake.Driver, op, id uint32, data uint64) error {
	_, err := d.Submit(ctx, &ctrldev.Command{Op: op, DevID: id, QueueID: uapi.AllQueues, Data: data})
	return err
}

// begin sends a command that waits, and returns once n are inside the driver.
func begin(t *testing.T, d *fake.Driver, n int, op, id uint32, data uint64) <-chan error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- send(t.Context(), d, op, id, data) }()
	must(t, d.Wait(t.Context(), n))
	return done
}

func wantState(t *testing.T, d *fake.Driver, id int, want uint16) {
	t.Helper()
	if info, ok := d.Device(id); !ok || info.State != want {
		t.Errorf("state %d, %v, want %d", info.State, ok, want)
	}
}

func TestStartWaitsForEveryTag(t *testing.T) {
	d := fake.New(fake.Options{})
	add(t, d, 0)
	must(t, d.OpenChar(0, pid))
	started := begin(t, d, 1, uapi.CmdStartDev, 0, pid)
	must(t, d.Fetch(0, 0, 0, 1, 2))
	wantState(t, d, 0, uapi.StateDead)
	for _, tt := range []struct {
		queue, tag int
		want       error
	}{{0, 2, unix.EINVAL}, {0, 4, unix.EINVAL}, {1, 0, unix.EINVAL}, {0, 3, nil}, {0, 3, unix.EBUSY}} {
		if err := d.Fetch(0, tt.queue, tt.tag); err != tt.want {
			t.Errorf("fetch of %d/%d: %v, want %v", tt.queue, tt.tag, err, tt.want)
		}
	}
	must(t, <-started)
	wantState(t, d, 0, uapi.StateLive)
}

// STOP_DEV waits for what the server holds, and holds the device's mutex.
func TestStopWaitsForTheServer(t *testing.T) {
	for name, leave := range map[string]func(*fake.Driver) error{
		"commits": func(d *fake.Driver) error { return d.Hold(0, 0) },
		"dies":    func(d *fake.Driver) error { return d.KillServer(0) },
	} {
		for _, flags := range []uint64{0, uapi.FlagUserRecovery} {
			t.Run(name, func(t *testing.T) {
				d := live(t, flags)
				must(t, d.Hold(0, 1))
				stopped := begin(t, d, 1, uapi.CmdStopDev, 0, 0)
				resized := begin(t, d, 2, uapi.CmdUpdateSize, 0, 8)
				wantState(t, d, 0, uapi.StateLive)
				must(t, leave(d))
				must(t, <-stopped)
				if err := <-resized; err != unix.ENODEV {
					t.Errorf("size of a stopped device: %v", err)
				}
				wantState(t, d, 0, uapi.StateDead)
			})
		}
	}
}

// DEL_DEV of a wedged device holds up ADD_DEV and DEL_DEV of all others.
func TestDeleteHoldsUpAll(t *testing.T) {
	d := live(t, 0)
	add(t, d, 0)
	must(t, d.Hold(0, 1))
	deleted := begin(t, d, 1, uapi.CmdDelDev, 0, 0)
	other := begin(t, d, 2, uapi.CmdDelDev, 1, 0)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	info := uapi.DevInfo{NrHWQueues: 1, QueueDepth: 1, DevID: uapi.AnyDevice}
	if _, err := d.Submit(ctx, &ctrldev.Command{Op: uapi.CmdAddDev, DevID: uapi.AnyDevice, QueueID: uapi.AllQueues, Buf: uapi.Bytes(&info)}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ADD_DEV behind it: %v", err)
	}
	must(t, send(t.Context(), d, uapi.CmdStopDev, 1, 0)) // needs no such lock
	must(t, d.KillServer(0))
	must(t, <-deleted, <-other)
}

// DEL_DEV waits for the char device, the openers of a removed disk and other
// commands; its interruption leaves the device deleted.
func TestDeleteWaitsForReferences(t *testing.T) {
	d := live(t, 0)
	must(t, d.OpenBlock(0))
	ctx, cancel := context.WithCancel(t.Context())
	interrupted := make(chan error)
	go func() { interrupted <- send(ctx, d, uapi.CmdDelDev, 0, 0) }()
	must(t, d.Wait(t.Context(), 1))
	cancel()
	if err := <-interrupted; !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	// ctx may have ended before the command had begun to work.
	must(t, send(t.Context(), d, uapi.CmdDelDevAsync, 0, 0))
	deleted := begin(t, d, 1, uapi.CmdDelDev, 0, 0)
	must(t, d.CloseChar(0))
	if err := d.OpenChar(0, pid); err != unix.ENOENT {
		t.Errorf("node of a deleted device: %v", err)
	}
	wantState(t, d, 0, uapi.StateDead)
	must(t, d.CloseBlock(0))
	must(t, <-deleted)
	if _, ok := d.Device(0); ok {
		t.Error("still there")
	}
}

func TestFrozen(t *testing.T) {
	d := live(t, 0)
	d.Freeze(uapi.CmdStopDev, false)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := send(ctx, d, uapi.CmdStopDev, 0, 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if err := send(t.Context(), d, uapi.CmdUpdateSize, 0, 16); err != nil {
		t.Errorf("another command: %v", err)
	}
	wantState(t, d, 0, uapi.StateLive)
	d.Unfreeze(uapi.CmdStopDev)
	must(t, d.Wait(t.Context(), 0))
	wantState(t, d, 0, uapi.StateDead)
}

func TestFail(t *testing.T) {
	d := live(t, 0)
	d.Fail(uapi.CmdStopDev, unix.ENOMEM)
	d.Fail(uapi.CmdStopDev, unix.EINTR)
	for _, want := range []error{unix.ENOMEM, unix.EINTR, nil} {
		if err := send(t.Context(), d, uapi.CmdStopDev, 0, 0); err != want {
			t.Errorf("%v, want %v", err, want)
		}
	}
}

func TestHistory(t *testing.T) {
	d := fake.New(fake.Options{})
	buf := make([]byte, 8)
	_, err := d.Submit(t.Context(), &ctrldev.Command{Op: uapi.CmdGetFeatures, Buf: buf})
	must(t, err)
	h := d.History()
	if len(h) != 1 || h[0].Op != uapi.CmdGetFeatures || h[0].Buf[0] != 0 || buf[0] != 0xff {
		t.Errorf("%+v, %x", h, buf)
	}
	if d.Forget(); len(d.History()) != 0 {
		t.Error("not forgotten")
	}
}

// A living process that has closed its char device is still reported, and one
// that is gone is not, but by 6.12.
func TestPid(t *testing.T) {
	for kernel, want := range map[fake.Kernel]int32{fake.Linux7_3: -1, fake.Linux6_12: pid} {
		d := fake.New(fake.Options{Kernel: kernel})
		add(t, d, uapi.FlagUserRecovery)
		must(t, d.OpenChar(0, pid), d.FetchAll(0), send(t.Context(), d, uapi.CmdStartDev, 0, pid), d.CloseChar(0))
		if got := reported(t, d); got != pid {
			t.Errorf("closed: pid %d", got)
		}
		d.Exit(pid)
		if got := reported(t, d); got != want {
			t.Errorf("gone: pid %d, want %d", got, want)
		}
	}
}

func reported(t *testing.T, d *fake.Driver) int32 {
	t.Helper()
	var info uapi.DevInfo
	_, err := d.Submit(t.Context(), &ctrldev.Command{Op: uapi.CmdGetDevInfo, QueueID: uapi.AllQueues, Buf: uapi.Bytes(&info)})
	must(t, err)
	return info.ServerPID
}

func TestBlockOpenAfterTryStop(t *testing.T) {
	d := live(t, 0)
	must(t, send(t.Context(), d, uapi.CmdTryStopDev, 0, 0), d.CloseChar(0))
	must(t, d.OpenChar(0, pid), d.FetchAll(0), send(t.Context(), d, uapi.CmdStartDev, 0, pid))
	must(t, d.OpenBlock(0))
	d.Become(false)
	if err := d.OpenBlock(0); err != unix.ENXIO {
		t.Errorf("%v", err)
	}
}
