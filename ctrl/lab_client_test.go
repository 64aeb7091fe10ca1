package ctrl_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"reflect"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/internal/ctrldev"
	"ublk/internal/uapi"
)

// helperEnv turns the test binary into the helper process of OpenDetached.
const helperEnv = "UBLK_TEST_HELPER"

func TestMain(m *testing.M) {
	if os.Getenv(helperEnv) == "" {
		os.Exit(m.Run())
	}
	if err := ctrl.ServeHelper(); err != nil {
		os.Exit(1)
	}
}

func helper() *exec.Cmd {
	cmd := ctrldev.HelperCommand()
	cmd.Env = append(os.Environ(), helperEnv+"=1")
	return cmd
}

// TestLabRealClient drives the methods of a client, in this process and through
// the helper, as a server's life uses them.
func TestLabRealClient(t *testing.T) {
	drv := openLab(t)
	old := is612(t, drv)
	for name, connect := range map[string]func() (*ctrl.Client, error){
		"open": ctrl.Open, "detached": func() (*ctrl.Client, error) { return ctrl.OpenDetached(helper) },
	} {
		t.Run(name, func(t *testing.T) {
			c, err := connect()
			must(t, err)
			w := newWorld(drv)
			defer (&env{world: w, drv: drv}).cleanUp()
			realClient(t, c, w, old)
			must(t, c.Close())
		})
	}
}

func realClient(t *testing.T, c *ctrl.Client, w *kernelWorld, old bool) {
	ctx := t.Context()
	have, err := c.Features(ctx)
	must(t, err)
	if want := ctrl.Features(0x1fffff); old && have != 0x1fe || !old && have != want {
		t.Errorf("features %v", have.Names())
	}
	asked := ctrl.AddRequest{ID: 5, Queues: 2, Depth: 8, MaxIOBytes: 1<<20 + 1, ServerFlags: 0xfeed<<48 | 1,
		Flags: uapi.FlagUserCopy | uapi.FlagUserRecovery | uapi.FlagNoAutoPartScan&uint64(have)}
	info, err := c.Add(ctx, asked)
	must(t, err)
	want := ctrl.DevInfo{ID: 5, State: ctrl.Dead, Queues: 2, Depth: 8, MaxIOBytes: 1 << 20, DescSize: 24, ServerPID: -1,
		Flags: ctrl.Features(asked.Flags | uapi.FlagCmdIoctlEncode | uapi.FlagURingCmdCompInTask), ServerFlags: asked.ServerFlags}
	if !old {
		want.Flags |= ctrl.Features(uapi.FlagPerIODaemon | uapi.FlagBufRegOffDaemon | uapi.FlagSafeStopDev)
	}
	if info != want {
		t.Errorf("added %+v, want %+v", info, want)
	}
	if info, err = c.Info(ctx, 5); err != nil || info != want {
		t.Errorf("info %+v, %v, want %+v", info, err, want)
	}
	var cpus []int
	for q := range 2 {
		got, err := c.Affinity(ctx, 5, q)
		must(t, err)
		cpus = append(cpus, got...)
	}
	var all []int
	for cpu := range runtime.NumCPU() {
		all = append(all, cpu)
	}
	if slices.Sort(cpus); !slices.Equal(cpus, all) {
		t.Errorf("queues are on CPUs %v, want %v", cpus, all)
	}
	if _, err := c.Add(ctx, asked); !errors.Is(err, fs.ErrExist) {
		t.Errorf("the same id: %v", err)
	}
	realParams(t, c)
	must(t, w.OpenChar(5, 0), w.FetchAll(5), c.Start(ctx, 5, os.Getpid()))
	if info, err = c.Info(ctx, 5); err != nil || info.State != ctrl.Live || info.ServerPID != os.Getpid() {
		t.Errorf("live: %+v, %v", info, err)
	}
	if _, err := c.ChangeParams(ctx, 5, func(*ctrl.Params) error { return nil }); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("parameters of a live device: %v", err)
	}
	err = c.TryStop(ctx, 5)
	var u *ctrl.UnsupportedError
	if old != errors.As(err, &u) || old != (err != nil) {
		t.Errorf("try stop: %v", err)
	}
	must(t, c.Stop(ctx, 5), w.CloseChar(5), c.Del(ctx, 5))
	if err := c.UpdateSize(ctx, 5, 8); !errors.Is(err, ctrl.ErrNoDevice) {
		t.Errorf("deleted: %v", err)
	}
}

// realParams leaves parameters that a device can be started with.
func realParams(t *testing.T, c *ctrl.Client) {
	ctx := t.Context()
	p := basicParams()
	p.Basic.VolatileCache = true
	p.Discard = &ctrl.DiscardParams{Granularity: 4096, MaxSectors: 256, MaxWriteZeroesSectors: 256, MaxSegments: 1}
	must(t, c.SetParams(ctx, 5, p))
	got, err := c.ChangeParams(ctx, 5, func(p *ctrl.Params) error { p.Basic.DevSectors = 4096; return nil })
	must(t, err)
	if got.Devt == nil || got.Devt.CharMajor == 0 || got.Devt.CharMinor != 5 || got.Devt.DiskMajor != 0 {
		t.Errorf("device numbers %+v", got.Devt)
	}
	p.Basic.DevSectors, got.Devt = 4096, nil
	if !reflect.DeepEqual(got, p) {
		t.Errorf("%+v, want %+v", got, p)
	}
	// The driver erases what it had when it refuses; we put it back. The zoned
	// group is refused on a device that was not added for it, here and there.
	_, err = c.ChangeParams(ctx, 5, func(p *ctrl.Params) error {
		p.Zoned = &ctrl.ZonedParams{MaxAppendSectors: 1}
		return nil
	})
	var refused *ctrl.ParamError
	if !errors.As(err, &refused) || errors.Is(err, unix.EINVAL) {
		t.Errorf("%v", err)
	}
	if got, err = c.Params(ctx, 5); err != nil || got.Basic == nil || got.Basic.DevSectors != 4096 {
		t.Errorf("after a refused change: %+v, %v", got.Basic, err)
	}
}
