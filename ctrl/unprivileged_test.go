package ctrl_test

import (
	"errors"
	"io/fs"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/internal/ctrldev"
	"ublk/internal/ctrldev/fake"
	"ublk/internal/uapi"
)

// addUnprivileged makes device 0 as a user, whose udev rule hands over the node.
func addUnprivileged(t *testing.T, c *ctrl.Client, drv *fake.Driver) {
	t.Helper()
	info, err := c.Add(t.Context(), ctrl.AddRequest{ID: 0, Queues: 1, Depth: 2, MaxIOBytes: 1 << 20,
		Flags: uapi.FlagUnprivilegedDev | uapi.FlagUserRecovery})
	must(t, err)
	if !info.Unprivileged() || info.OwnerUID != fake.UserID || info.Recovery() != ctrl.RecoveryNone {
		t.Fatalf("%+v", info)
	}
	must(t, drv.Chown(0, true))
}

func TestUnprivileged(t *testing.T) {
	c, drv := newClient(t, fake.Options{Unprivileged: true})
	ctx := t.Context()
	if _, err := c.Add(ctx, ctrl.AddRequest{ID: 0, Queues: 1, Depth: 2}); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("without the flag: %v", err)
	}
	addUnprivileged(t, c, drv)
	drv.Forget()
	must(t, c.SetParams(ctx, 0, basicParams()))
	must(t, drv.OpenChar(0, serverPID), drv.FetchAll(0), c.Start(ctx, 0, serverPID))
	_, err := c.Params(ctx, 0)
	must(t, err)
	_, err = c.Affinity(ctx, 0, 0)
	must(t, err)
	must(t, c.UpdateSize(ctx, 0, 8), c.TryStop(ctx, 0), drv.CloseChar(0))
	if err := c.DelAsync(ctx, 0); !errors.Is(err, unix.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("DEL_DEV_ASYNC: %v", err)
	}
	must(t, c.Del(ctx, 0))
	for _, h := range drv.History() {
		if h.Path != "/dev/ublkc0" {
			t.Errorf("command %#x without the path: %q", h.Op, h.Path)
		}
	}
}

// Root, too, must send the path with the commands of such a device.
func TestUnprivilegedAsRoot(t *testing.T) {
	c, drv := newClient(t, fake.Options{Unprivileged: true})
	addUnprivileged(t, c, drv)
	drv.Become(true)
	must(t, c.SetParams(t.Context(), 0, basicParams()), c.Stop(t.Context(), 0))
	_, err := (&env{drv: drv}).submit(second, &ctrldev.Command{Op: uapi.CmdStopDev, QueueID: uapi.AllQueues})
	if err != unix.EINVAL {
		t.Errorf("without: %v", err)
	}
}

func TestNodeOfSomebodyElse(t *testing.T) {
	c, drv := newClient(t, fake.Options{Unprivileged: true})
	addUnprivileged(t, c, drv)
	must(t, drv.Chown(0, false))
	if _, err := c.Info(t.Context(), 0); err != nil {
		t.Errorf("read is enough for this: %v", err)
	}
	if err := c.Stop(t.Context(), 0); !errors.Is(err, unix.EACCES) {
		t.Errorf("%v", err)
	}
}

func TestDeviceOfRoot(t *testing.T) {
	c, drv := newClient(t, fake.Options{})
	added(t, c, 0)
	drv.Become(false)
	for op, send := range commands {
		if err := send(t.Context(), c, 0); !errors.Is(err, fs.ErrPermission) || errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%#x: %v", op, err)
		}
	}
}

func TestQuota(t *testing.T) {
	c, _ := newClient(t, fake.Options{Unprivileged: true, MaxUnprivileged: 1})
	r := ctrl.AddRequest{ID: -1, Queues: 1, Depth: 1, Flags: uapi.FlagUnprivilegedDev}
	_, err := c.Add(t.Context(), r)
	must(t, err)
	if _, err := c.Add(t.Context(), r); !errors.Is(err, unix.EACCES) {
		t.Errorf("%v", err)
	}
}

// A device that is deleted and still referenced has no node to name any more.
func TestInfoWithoutNode(t *testing.T) {
	c, drv := newClient(t, fake.Options{})
	started(t, c, drv, 0)
	must(t, c.DelAsync(t.Context(), 0))
	drv.Forget()
	wantState(t, c, ctrl.Dead)
	h := drv.History()
	ops := []uint32{h[0].Op, h[1].Op}
	if !slices.Equal(ops, []uint32{uapi.CmdGetDevInfo2, uapi.CmdGetDevInfo}) || h[1].Path != "" {
		t.Errorf("%+v", h)
	}
	must(t, drv.CloseChar(0))
	if _, err := c.Info(t.Context(), 0); !errors.Is(err, ctrl.ErrNoDevice) {
		t.Errorf("%v", err)
	}
}

func TestInfoOfUnprivilegedWithoutNode(t *testing.T) {
	c, drv := newClient(t, fake.Options{Unprivileged: true})
	addUnprivileged(t, c, drv)
	drv.Fail(uapi.CmdGetDevInfo2, unix.ENOENT)
	_, err := c.Info(t.Context(), 0)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v: the missing node is the reason", err)
	}
}

// A kernel from before GET_DEV_INFO2.
func TestInfoOfOldKernel(t *testing.T) {
	c, drv := newClient(t, fake.Options{Kernel: fake.Linux6_12})
	added(t, c, 0)
	drv.Fail(uapi.CmdGetDevInfo2, unix.EOPNOTSUPP)
	info, err := c.Info(t.Context(), 0)
	must(t, err)
	if info.DescSize != 24 || info.Queues != 2 {
		t.Errorf("%+v", info)
	}
}

// Every method that changes something sends exactly one command that does.
func TestOneChangingCommand(t *testing.T) {
	for op, send := range commands {
		c, drv := newClient(t, fake.Options{})
		started(t, c, drv, uapi.FlagShmemZC)
		drv.Forget()
		if op == uapi.CmdDelDev {
			must(t, drv.CloseChar(0))
		}
		_ = send(t.Context(), c, 0)
		var sent []uint32
		for _, h := range drv.History() {
			if !ctrldev.Inline(h.Op) || h.Op == op {
				sent = append(sent, h.Op)
			}
		}
		if !slices.Equal(sent, []uint32{op}) {
			t.Errorf("%#x: sent %#x", op, sent)
		}
	}
}
