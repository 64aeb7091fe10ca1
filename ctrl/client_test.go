package ctrl_test

import (
	"context"
	"errors"
	"io/fs"
	"reflect"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/internal/ctrldev"
	"ublk/internal/ctrldev/fake"
	"ublk/internal/uapi"
)

const serverPID = 4411

// newClient is a client of a new fake driver.
func newClient(t *testing.T, o fake.Options) (*ctrl.Client, *fake.Driver) {
	t.Helper()
	drv := fake.New(o)
	c := ctrl.New(drv)
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c, drv
}

// must stops the test at the first error.
func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func basicParams() ctrl.Params {
	return ctrl.Params{Basic: &ctrl.BasicParams{LogicalBlockShift: 9, PhysicalBlockShift: 12, IOOptShift: 12, IOMinShift: 9,
		MaxSectors: 256, DevSectors: 2048}}
}

// added makes device 0 with parameters.
func added(t *testing.T, c *ctrl.Client, flags uint64) {
	t.Helper()
	info, err := c.Add(t.Context(), ctrl.AddRequest{ID: -1, Queues: 2, Depth: 4, MaxIOBytes: 1 << 20, Flags: flags})
	must(t, err)
	if info.ID != 0 {
		t.Fatalf("id %d", info.ID)
	}
	must(t, c.SetParams(t.Context(), 0, basicParams()))
}

// attached opens the char device of device 0 and fetches.
func attached(t *testing.T, drv *fake.Driver) {
	t.Helper()
	must(t, drv.OpenChar(0, serverPID), drv.FetchAll(0))
}

func started(t *testing.T, c *ctrl.Client, drv *fake.Driver, flags uint64) {
	t.Helper()
	added(t, c, flags)
	attached(t, drv)
	must(t, c.Start(t.Context(), 0, serverPID))
}

func wantState(t *testing.T, c *ctrl.Client, want ctrl.State) {
	t.Helper()
	info, err := c.Info(t.Context(), 0)
	must(t, err)
	if info.State != want {
		t.Fatalf("state %v, want %v", info.State, want)
	}
}

func TestLife(t *testing.T) {
	c, drv := newClient(t, fake.Options{CPUs: 4})
	ctx := t.Context()
	info, err := c.Add(ctx, ctrl.AddRequest{ID: 7, Queues: 64, Depth: 16, MaxIOBytes: 1<<20 + 5, Flags: uapi.FlagUserCopy, ServerFlags: 0xfeed})
	must(t, err)
	want := ctrl.DevInfo{ID: 7, State: ctrl.Dead, Queues: 4, Depth: 16, MaxIOBytes: 1 << 20, DescSize: 24, ServerPID: -1,
		Flags: 0x260c2, ServerFlags: 0xfeed}
	if info != want {
		t.Errorf("added %+v, want %+v", info, want)
	}
	must(t, c.SetParams(ctx, 7, basicParams()))
	must(t, drv.OpenChar(7, serverPID), drv.FetchAll(7), c.Start(ctx, 7, serverPID))
	want.State, want.ServerPID = ctrl.Live, serverPID
	if info, err = c.Info(ctx, 7); err != nil || info != want {
		t.Errorf("live %+v, %v, want %+v", info, err, want)
	}
	p, err := c.Params(ctx, 7)
	must(t, err)
	if p.Devt == nil || p.Devt.CharMinor != 7 || p.Devt.DiskMajor == 0 {
		t.Errorf("device numbers %+v", p.Devt)
	}
	var cpus []int
	for q := range 4 {
		got, err := c.Affinity(ctx, 7, q)
		must(t, err)
		cpus = append(cpus, got...)
	}
	if slices.Sort(cpus); !slices.Equal(cpus, []int{0, 1, 2, 3}) {
		t.Errorf("queues are on CPUs %v", cpus)
	}
	must(t, c.UpdateSize(ctx, 7, 4096))
	if p, err = c.Params(ctx, 7); err != nil || p.Basic.DevSectors != 4096 {
		t.Errorf("%v sectors, %v", p.Basic.DevSectors, err)
	}
	must(t, c.Stop(ctx, 7))
	if !drv.Told(7) {
		t.Error("the server was not told of the stop")
	}
	must(t, drv.CloseChar(7), c.Del(ctx, 7))
	if _, err := c.Info(ctx, 7); !errors.Is(err, ctrl.ErrNoDevice) {
		t.Errorf("deleted: %v", err)
	}
}

func TestAffinityOfManyCPUs(t *testing.T) {
	c, _ := newClient(t, fake.Options{CPUs: 130})
	added(t, c, 0)
	cpus, err := c.Affinity(t.Context(), 0, 1)
	must(t, err)
	if len(cpus) != 65 || cpus[0] != 65 || cpus[64] != 129 {
		t.Errorf("CPUs of queue 1: %v", cpus)
	}
}

func TestRecovery(t *testing.T) {
	for mode, without := range map[ctrl.Recovery]ctrl.State{
		ctrl.RecoveryNone: ctrl.Dead, ctrl.RecoveryRequeue: ctrl.Quiesced,
		ctrl.RecoveryReissue: ctrl.Quiesced, ctrl.RecoveryFail: ctrl.FailIO,
	} {
		t.Run(mode.String(), func(t *testing.T) {
			c, drv := newClient(t, fake.Options{})
			started(t, c, drv, mode.Flags())
			info, err := c.Info(t.Context(), 0)
			must(t, err)
			if info.Recovery() != mode {
				t.Errorf("mode %v", info.Recovery())
			}
			if err := c.StartRecovery(t.Context(), 0); mode != ctrl.RecoveryNone && !errors.Is(err, ctrl.ErrBusy) {
				t.Errorf("recovery of a live device: %v", err)
			}
			must(t, drv.KillServer(0))
			wantState(t, c, without)
			if info, err = c.Info(t.Context(), 0); err != nil || info.ServerPID != -1 {
				t.Errorf("pid %d of a dead server, %v", info.ServerPID, err)
			}
			if mode == ctrl.RecoveryNone {
				return
			}
			must(t, c.StartRecovery(t.Context(), 0), drv.OpenChar(0, 4412), drv.FetchAll(0))
			if err := c.EndRecovery(t.Context(), 0, serverPID); !errors.Is(err, unix.EINVAL) {
				t.Errorf("pid of the old server: %v", err)
			}
			must(t, c.EndRecovery(t.Context(), 0, 4412))
			wantState(t, c, ctrl.Live)
		})
	}
}

func TestQuiesce(t *testing.T) {
	c, drv := newClient(t, fake.Options{})
	started(t, c, drv, uapi.FlagUserRecovery|uapi.FlagQuiesce)
	must(t, drv.Hold(0, 8), c.Quiesce(t.Context(), 0, time.Second))
	if drv.Told(0) {
		t.Error("a server that holds every tag was told")
	}
	must(t, drv.Hold(0, 7), c.Quiesce(t.Context(), 0, time.Microsecond))
	if !drv.Told(0) {
		t.Error("a server with an idle tag was not told")
	}
	wantState(t, c, ctrl.Live)
	must(t, drv.KillServer(0))
	wantState(t, c, ctrl.Quiesced)
	h := drv.History()
	if i := slices.IndexFunc(h, func(c ctrldev.Command) bool { return c.Op == uapi.CmdQuiesceDev && c.Data != 1000 }); h[i].Data != 1 {
		t.Errorf("a microsecond was sent as %d ms (0 is for ever)", h[i].Data)
	}
}

func TestSharedMemory(t *testing.T) {
	c, _ := newClient(t, fake.Options{})
	added(t, c, uapi.FlagShmemZC)
	ctx := t.Context()
	for want := range 2 {
		if index, err := c.RegBuf(ctx, 0, 1<<20, 8192, want == 1); err != nil || index != want {
			t.Fatalf("index %d, %v, want %d", index, err, want)
		}
	}
	must(t, c.UnregBuf(ctx, 0, 0))
	if err := c.UnregBuf(ctx, 0, 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("twice: %v", err)
	}
	if _, err := c.RegBuf(ctx, 0, 1<<20, 1, false); !errors.Is(err, unix.EINVAL) {
		t.Errorf("one byte: %v", err)
	}
}

func TestTryStop(t *testing.T) {
	c, drv := newClient(t, fake.Options{})
	started(t, c, drv, 0)
	must(t, drv.OpenBlock(0))
	if err := c.TryStop(t.Context(), 0); !errors.Is(err, ctrl.ErrBusy) {
		t.Errorf("with an opener: %v", err)
	}
	wantState(t, c, ctrl.Live)
	must(t, drv.CloseBlock(0), c.TryStop(t.Context(), 0))
	wantState(t, c, ctrl.Dead)
}

func TestFeatures(t *testing.T) {
	for _, tt := range []struct {
		name  string
		drv   func() *fake.Driver
		want  ctrl.Features
		fails error
	}{
		{"7.3", func() *fake.Driver { return fake.New(fake.Options{}) }, 0x1fffff, nil},
		{"6.12", func() *fake.Driver { return fake.New(fake.Options{Kernel: fake.Linux6_12}) }, 0x1fe, nil},
		{"unknown command", func() *fake.Driver { return failing(uapi.CmdGetFeatures, unix.EOPNOTSUPP) }, ctrl.BaseFeatures, nil},
		{"unknown command, no device 0", func() *fake.Driver { return failing(uapi.CmdGetFeatures, unix.ENODEV) }, ctrl.BaseFeatures, nil},
		{"vetoed", func() *fake.Driver { return failing(uapi.CmdGetFeatures, unix.EACCES) }, 0, fs.ErrPermission},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ctrl.New(tt.drv()).Features(t.Context())
			if got != tt.want || !errors.Is(err, tt.fails) {
				t.Errorf("%#x, %v", uint64(got), err)
			}
		})
	}
}

// A ring that the kernel refuses is no old kernel.
func TestFeaturesWithoutRing(t *testing.T) {
	c := ctrl.New(brokenRing{})
	var sys interface{ Unwrap() error }
	if _, err := c.Features(t.Context()); !errors.As(err, &sys) || !errors.Is(err, unix.EINVAL) {
		t.Errorf("%v", err)
	}
}

type brokenRing struct{ ctrldev.Driver }

func (brokenRing) Submit(context.Context, *ctrldev.Command) (int32, error) {
	return 0, &fs.PathError{Op: "io_uring_setup", Err: unix.EINVAL}
}

func failing(op uint32, errno unix.Errno) *fake.Driver {
	drv := fake.New(fake.Options{})
	drv.Fail(op, errno)
	return drv
}

func TestFeatureNames(t *testing.T) {
	for f := range ctrl.AllFeatures() {
		got, ok := ctrl.LookupFeature(f.Name)
		if !ok || got != f {
			t.Errorf("%s: %+v, %v", f.Name, got, ok)
		}
	}
	if f, ok := ctrl.LookupFeature("user-copy"); !ok || f.Flag != uapi.FlagUserCopy {
		t.Errorf("user-copy: %+v, %v", f, ok)
	}
	if _, ok := ctrl.LookupFeature("none"); ok {
		t.Error("none is a feature")
	}
	names := ctrl.Features(uapi.FlagQuiesce | 1<<40).Names()
	if !reflect.DeepEqual(names, []string{"UBLK_F_QUIESCE", "0x10000000000"}) {
		t.Errorf("%v", names)
	}
}
