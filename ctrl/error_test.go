package ctrl_test

import (
	"context"
	"errors"
	"io/fs"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/internal/ctrldev/fake"
	"ublk/internal/uapi"
)

// commands are the methods that send one changing command to device 0.
var commands = map[uint32]func(context.Context, *ctrl.Client, int) error{
	uapi.CmdStartDev: func(ctx context.Context, c *ctrl.Client, id int) error { return c.Start(ctx, id, serverPID) },
	uapi.CmdStopDev:  func(ctx context.Context, c *ctrl.Client, id int) error { return c.Stop(ctx, id) },
	uapi.CmdTryStopDev: func(ctx context.Context, c *ctrl.Client, id int) error {
		return c.TryStop(ctx, id)
	},
	uapi.CmdDelDev:      func(ctx context.Context, c *ctrl.Client, id int) error { return c.Del(ctx, id) },
	uapi.CmdDelDevAsync: func(ctx context.Context, c *ctrl.Client, id int) error { return c.DelAsync(ctx, id) },
	uapi.CmdStartUserRecovery: func(ctx context.Context, c *ctrl.Client, id int) error {
		return c.StartRecovery(ctx, id)
	},
	uapi.CmdEndUserRecovery: func(ctx context.Context, c *ctrl.Client, id int) error {
		return c.EndRecovery(ctx, id, serverPID)
	},
	uapi.CmdUpdateSize: func(ctx context.Context, c *ctrl.Client, id int) error { return c.UpdateSize(ctx, id, 8) },
	uapi.CmdQuiesceDev: func(ctx context.Context, c *ctrl.Client, id int) error {
		return c.Quiesce(ctx, id, time.Second)
	},
	uapi.CmdRegBuf: func(ctx context.Context, c *ctrl.Client, id int) error {
		_, err := c.RegBuf(ctx, id, 4096, 4096, false)
		return err
	},
	uapi.CmdUnregBuf:  func(ctx context.Context, c *ctrl.Client, id int) error { return c.UnregBuf(ctx, id, 0) },
	uapi.CmdSetParams: func(ctx context.Context, c *ctrl.Client, id int) error { return c.SetParams(ctx, id, basicParams()) },
	uapi.CmdGetParams: func(ctx context.Context, c *ctrl.Client, id int) error { _, err := c.Params(ctx, id); return err },
	uapi.CmdGetQueueAffinity: func(ctx context.Context, c *ctrl.Client, id int) error {
		_, err := c.Affinity(ctx, id, 0)
		return err
	},
}

func TestNoDevice(t *testing.T) {
	c, drv := newClient(t, fake.Options{})
	added(t, c, 0) // number 0: no other id may be taken for it
	drv.Forget()
	for op, send := range commands {
		for _, id := range []int{1, -1, 1 << 32} {
			err := send(t.Context(), c, id)
			var e *ctrl.Error
			if !errors.Is(err, ctrl.ErrNoDevice) || errors.Is(err, ctrl.ErrNotStarted) || !errors.As(err, &e) || e.Dev != id {
				t.Errorf("command %#x, device %d: %v", op, id, err)
			}
		}
	}
	for _, h := range drv.History() {
		if h.Op != uapi.CmdGetDevInfo2 {
			t.Errorf("command %#x was sent to device %d", h.Op, h.DevID)
		}
	}
}

func TestErrnoMapping(t *testing.T) {
	for _, tt := range []struct {
		errno unix.Errno
		op    uint32
		is    error
		not   error
	}{
		{unix.EEXIST, uapi.CmdStartDev, fs.ErrExist, ctrl.ErrBusy},
		{unix.EPERM, uapi.CmdStopDev, fs.ErrPermission, ctrl.ErrNoDevice},
		{unix.EACCES, uapi.CmdSetParams, fs.ErrPermission, ctrl.ErrBusy},
		{unix.EBUSY, uapi.CmdEndUserRecovery, ctrl.ErrBusy, fs.ErrExist},
		{unix.ENODEV, uapi.CmdStopDev, ctrl.ErrNoDevice, ctrl.ErrNotStarted},
		{unix.ENODEV, uapi.CmdQuiesceDev, ctrl.ErrNotStarted, ctrl.ErrNoDevice},
		{unix.ENODEV, uapi.CmdUpdateSize, ctrl.ErrNotStarted, ctrl.ErrNoDevice},
		{unix.ENODEV, uapi.CmdTryStopDev, ctrl.ErrNotStarted, ctrl.ErrNoDevice},
		{unix.EOPNOTSUPP, uapi.CmdQuiesceDev, errors.ErrUnsupported, ctrl.ErrNoDevice},
		{unix.EINVAL, uapi.CmdStartDev, unix.EINVAL, errors.ErrUnsupported},
	} {
		c, drv := newClient(t, fake.Options{})
		added(t, c, 0)
		drv.Fail(tt.op, tt.errno)
		err := commands[tt.op](t.Context(), c, 0)
		var e *ctrl.Error
		if !errors.Is(err, tt.is) || errors.Is(err, tt.not) || !errors.Is(err, tt.errno) || !errors.As(err, &e) || e.Timeout() {
			t.Errorf("%#x: %v (%#v)", tt.op, err, e)
		}
	}
}

// An error that is put together again from its parts, as between processes,
// still tells the meanings of ENODEV apart.
func TestErrorFromParts(t *testing.T) {
	stop := &ctrl.Error{Op: "STOP_DEV", Dev: 3, Err: unix.ENODEV}
	size := &ctrl.Error{Op: "UPDATE_SIZE", Dev: 3, Err: unix.ENODEV}
	if !errors.Is(stop, ctrl.ErrNoDevice) || errors.Is(stop, ctrl.ErrNotStarted) {
		t.Error("STOP_DEV")
	}
	if errors.Is(size, ctrl.ErrNoDevice) || !errors.Is(size, ctrl.ErrNotStarted) {
		t.Error("UPDATE_SIZE")
	}
	if got := stop.Error(); got != "device 3: no such device" {
		t.Error(got)
	}
}

func TestTexts(t *testing.T) {
	c, _ := newClient(t, fake.Options{})
	added(t, c, 0)
	_, err := c.Add(t.Context(), ctrl.AddRequest{ID: 0, Queues: 1, Depth: 1})
	if err == nil || err.Error() != "device 0: ADD_DEV: file exists" || !errors.Is(err, fs.ErrExist) {
		t.Errorf("%v", err)
	}
	err = c.UpdateSize(t.Context(), 0, 8)
	if err == nil || err.Error() != "device 0: UPDATE_SIZE: device is not started" {
		t.Errorf("%v", err)
	}
}

func TestAddRange(t *testing.T) {
	c, drv := newClient(t, fake.Options{})
	good := ctrl.AddRequest{ID: -1, Queues: 1, Depth: 1}
	for name, edit := range map[string]func(*ctrl.AddRequest){
		"id -2":        func(r *ctrl.AddRequest) { r.ID = -2 },
		"id 2^20":      func(r *ctrl.AddRequest) { r.ID = 1 << 20 },
		"no queues":    func(r *ctrl.AddRequest) { r.Queues = 0 },
		"65537 queues": func(r *ctrl.AddRequest) { r.Queues = 1<<16 + 1 },
		"depth -1":     func(r *ctrl.AddRequest) { r.Depth = -1 },
		"depth 65537":  func(r *ctrl.AddRequest) { r.Depth = 1<<16 + 1 },
	} {
		r := good
		edit(&r)
		_, err := c.Add(t.Context(), r)
		var p *ctrl.ParamError
		if !errors.As(err, &p) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if h := drv.History(); len(h) != 0 {
		t.Errorf("%d commands were sent", len(h))
	}
}

func TestUnsupported(t *testing.T) {
	since := map[uint32]string{uapi.CmdUpdateSize: "6.16", uapi.CmdQuiesceDev: "6.16", uapi.CmdTryStopDev: "7.0",
		uapi.CmdRegBuf: "7.1", uapi.CmdUnregBuf: "7.1"}
	for _, o := range []fake.Options{{Kernel: fake.Linux6_12}, {Kernel: fake.Linux6_12, Unprivileged: true}} {
		c, drv := newClient(t, o)
		if o.Unprivileged {
			addUnprivileged(t, c, drv)
		} else {
			started(t, c, drv, 0)
		}
		for op, release := range since {
			err := commands[op](t.Context(), c, 0)
			var u *ctrl.UnsupportedError
			if !errors.Is(err, errors.ErrUnsupported) || !errors.As(err, &u) || u.Since != release || u.Feature == "" {
				t.Errorf("%#x: %v", op, err)
			}
		}
		if err := c.StartRecovery(t.Context(), 0); errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("a command that the kernel has: %v", err)
		}
	}
	// The kernel has the command, the device was made without the flag.
	c, drv := newClient(t, fake.Options{})
	started(t, c, drv, 0)
	err := c.Quiesce(t.Context(), 0, 0)
	if u := (*ctrl.UnsupportedError)(nil); errors.As(err, &u) || !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("quiesce without the flag: %v", err)
	}
}

func TestRequire(t *testing.T) {
	have := ctrl.Features(uapi.FlagUserCopy)
	if err := have.Require(uapi.FlagUserCopy); err != nil {
		t.Error(err)
	}
	err := have.Require(uapi.FlagUserCopy | uapi.FlagBatchIO | uapi.FlagShmemZC)
	if want := "this kernel has no UBLK_F_BATCH_IO (Linux 7.0 or newer)"; err == nil || err.Error() != want {
		t.Errorf("%v", err)
	}
	if err := have.Require(1 << 40); err == nil || err.Error() != "this kernel has no 0x10000000000" {
		t.Errorf("%v", err)
	}
}

func TestDeadline(t *testing.T) {
	for name, interruptible := range map[string]bool{"interruptible": true, "stuck": false} {
		t.Run(name, func(t *testing.T) {
			c, drv := newClient(t, fake.Options{})
			started(t, c, drv, 0)
			drv.Freeze(uapi.CmdStopDev, interruptible)
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			err := c.Stop(ctx, 0)
			var e *ctrl.Error
			if !errors.As(err, &e) || !e.Timeout() || !errors.Is(err, context.DeadlineExceeded) || e.Op != "STOP_DEV" {
				t.Fatalf("%v", err)
			}
			// What was given up goes on by itself; what was interrupted does not.
			drv.Unfreeze(uapi.CmdStopDev)
			must(t, drv.Wait(t.Context(), 0))
			want := ctrl.Dead
			if interruptible {
				want = ctrl.Live
			}
			wantState(t, c, want)
		})
	}
}

func TestCancel(t *testing.T) {
	c, drv := newClient(t, fake.Options{})
	added(t, c, 0)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- c.Start(ctx, 0, serverPID) }()
	must(t, drv.Wait(t.Context(), 1))
	cancel()
	err := <-done
	var e *ctrl.Error
	if !errors.Is(err, context.Canceled) || errors.As(err, &e) && e.Timeout() {
		t.Errorf("%v", err)
	}
	if err := c.Stop(ctx, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
}
