package cmd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/internal/sysfs"
	"ublk/internal/uapi"
	"ublk/internal/units"
	"ublk/internal/watch"
	"ublk/server"
)

type upgradeOptions struct {
	devices deviceArgs
	force   bool
	dryRun  bool
	json    bool
	timeout time.Duration
}

func newUpgradeCommand(a *app) *cobra.Command {
	o := upgradeOptions{timeout: ctrl.DefaultTimeout}
	cmd := &cobra.Command{
		Use:   "upgrade DEVICE...",
		Short: "replace the server of a live device by one of this program",
		Long: "Replace the servers of devices by servers of the program that is installed now, without an I/O error: the new server is started and\n" +
			"checked (configuration, target, memory), the old one is asked to leave once it has answered what it holds, and the new one goes on. I/O waits for some milliseconds.\n" +
			"Where the new server fails at the end, one of the old program takes over again.\n\n" +
			"The devices must have been added with --recovery, and the kernel must have QUIESCE_DEV (Linux 6.16). Those added with\n" +
			"--recovery=fail see I/O errors in the gap: that needs --force. One device is upgraded after the other.",
		Example: "  ublk upgrade 0\n  ublk upgrade --all",
		RunE:    a.action(func(ctx context.Context, args []string) error { return a.runUpgrade(ctx, &o, args) }),
	}
	o.devices.many(a, cmd, false)
	flags := cmd.Flags()
	flags.BoolVarP(&o.force, "force", "f", false, "also devices with --recovery=fail, whose I/O fails in the gap, and where memory is short")
	flags.BoolVar(&o.dryRun, "dry-run", false, "start and check the new server only, and print what would be done")
	flags.BoolVarP(&o.json, "json", "J", false, "print the devices as list -J does")
	option(flags, &o.timeout, "timeout", "", units.FormatAge(o.timeout), "give up on a device after `TIME` (seconds, or as in 500ms, 2m)", units.ParseDuration)
	return cmd
}

func (a *app) runUpgrade(ctx context.Context, o *upgradeOptions, args []string) error {
	if _, err := a.connect(); err != nil {
		return err
	}
	var done []int
	err := o.devices.each(ctx, a, args, func(ctx context.Context, id int) error {
		err := a.upgrade(ctx, o, id)
		if err == nil && !o.dryRun {
			done = append(done, id)
		}
		return err
	})
	if perr := a.printRecovered(done, o.json); err == nil {
		err = perr
	}
	return err
}

// upgrade replaces the server of one device.
func (a *app) upgrade(ctx context.Context, o *upgradeOptions, id int) error {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	unlock, err := a.lock(ctx, id) // keeps ublk watch away
	if err != nil {
		return err
	}
	defer unlock()
	client, info, err := a.device(ctx, id)
	if err != nil {
		return err
	}
	have, err := client.Features(ctx)
	if err != nil {
		return err
	}
	if err := upgradable(&info, have, o.force); err != nil {
		return err
	}
	cfg, err := server.Remembered(info)
	if err != nil {
		return hinted(err, "Only the servers of devices that ublk remembers can be replaced.")
	}
	if mode := server.ModeOf(info.Flags); mode != server.DataUserCopy || cfg.Data != server.DataNone {
		cfg.Data = mode
	}
	if below, err := watch.Below(cfg); err != nil {
		return err
	} else if err := watch.Standing(ctx, client, a.fs, watch.Step{ID: id, Below: below}, func(int) bool { return false }); err != nil {
		return err
	}
	if err := a.enoughMemory(info, cfg); err != nil && !o.force {
		return hinted(err, "--force does it all the same.")
	}
	u := upgrade{app: a, client: client, info: info, job: server.Job{Action: server.ActionRecover, ID: id, Config: cfg}}
	return u.run(ctx, o.dryRun)
}

// upgradable refuses devices whose server cannot be replaced.
func upgradable(info *ctrl.DevInfo, have ctrl.Features, force bool) error {
	switch {
	case have.Require(uapi.FlagQuiesce) != nil:
		return fmt.Errorf("device %d: %w", info.ID, have.Require(uapi.FlagQuiesce))
	case info.Recovery() == ctrl.RecoveryNone:
		return hinted(fmt.Errorf("device %d was added without UBLK_F_USER_RECOVERY: its disk cannot outlive its server: %w", info.ID, errors.ErrUnsupported),
			"Add devices with --recovery. This one can only be deleted and added anew.")
	case !info.Flags.Has(uapi.FlagQuiesce):
		return hinted(fmt.Errorf("device %d was added without UBLK_F_QUIESCE: its server cannot be asked to leave: %w", info.ID, errors.ErrUnsupported),
			"A crash does the same, if the mode is reissue: kill -KILL %d, then ublk recover %d", info.ServerPID, info.ID)
	case info.State != ctrl.Live:
		return hinted(fmt.Errorf("device %d is %s: it has no server to replace", info.ID, info.State), "Give it one: ublk recover %d", info.ID)
	case info.Recovery() == ctrl.RecoveryFail && !force:
		return hinted(fmt.Errorf("device %d was added with --recovery=fail: its I/O would fail until the new server is there", info.ID),
			"--force does it all the same.")
	}
	return nil
}

// enoughMemory refuses a device whose new server may not get the memory for its
// buffers. It can have that of the old one, too, which has left by then.
func (a *app) enoughMemory(info ctrl.DevInfo, cfg server.Config) error {
	need := cfg.BufferBytes(info)
	have, err := a.fs.MemAvailable()
	if err != nil {
		return err
	}
	if old, err := a.fs.ProcessStat(info.ServerPID); err == nil {
		have += old.RSS
	}
	if need > have {
		return fmt.Errorf("device %d: the buffers of the new server may take %s of memory, and only %s are available",
			info.ID, units.FormatSize(need), units.FormatSize(have))
	}
	return nil
}

// upgrade is one replacement under way.
type upgrade struct {
	app    *app
	client *ctrl.Client
	info   ctrl.DevInfo
	job    server.Job
}

// run starts the new server, sends the old one away and lets the new one go on.
func (u *upgrade) run(ctx context.Context, dryRun bool) error {
	id, old := u.info.ID, u.info.ServerPID
	// Held open: the file it was started from may be gone, or be the new one.
	exe, err := openExecutable(old)
	if err != nil {
		return fmt.Errorf("device %d: server %d: %w", id, old, err)
	}
	defer exe.Close()
	handle, err := sysfs.OpenPIDFD(old)
	if err != nil {
		return fmt.Errorf("device %d: server %d: %w", id, old, err)
	}
	defer handle.Close()
	next, err := server.Standby(ctx)
	if err != nil {
		return fmt.Errorf("device %d: the new server: %w", id, err)
	}
	defer next.Close()
	if err := next.Prepare(ctx, u.job); err != nil {
		return fmt.Errorf("device %d: the new server, with the old one going on: %w", id, err)
	}
	if dryRun {
		return u.print()
	}
	who := func() string { return u.app.holdUp(u.info) }
	if err := u.app.waiting(fmt.Sprintf("server %d to answer what it holds and to leave", old), who, func() error { return u.quiesce(ctx) }); err != nil {
		return err
	}
	started, err := next.Take(ctx, u.job)
	if err == nil {
		u.app.warn(started.Warnings)
		return nil
	}
	return u.fallBack(fmt.Errorf("device %d: the new server: %w", id, err), exe)
}

// quiesceAgain is when QUIESCE_DEV is sent again to a server that still serves.
const quiesceAgain = 200 * time.Millisecond

// quiesce sends the server away. The driver tells it only if a queue has an idle
// tag at that moment, says nothing when not, and keeps new I/O back from then on
// (ublk_drv.c:ublk_ctrl_quiesce_dev, v7.3): so the command is sent until the
// state changes.
func (u *upgrade) quiesce(ctx context.Context) error {
	for {
		if err := u.client.Quiesce(ctx, u.info.ID, quiesceAgain); err != nil && !errors.Is(err, unix.EBUSY) {
			return u.stuck(ctx, err)
		}
		limited, cancel := context.WithTimeout(ctx, quiesceAgain)
		info, err := server.AwaitLeave(limited, u.client, u.info.ID)
		cancel()
		switch {
		case err == nil && info.State == ctrl.Dead:
			return fmt.Errorf("device %d was stopped meanwhile: %w", u.info.ID, server.ErrNotWaiting)
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return u.stuck(ctx, ctx.Err())
		case !errors.Is(err, context.DeadlineExceeded):
			return err
		}
	}
}

// stuck says what to do about a server that does not leave: while it stays, the
// device gets no new I/O.
func (u *upgrade) stuck(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	hint := fmt.Sprintf("It is still there, but the driver gives it no new requests. Try again, or end it: kill -KILL %d, then ublk recover %d", u.info.ServerPID, u.info.ID)
	if by := u.app.holdUp(u.info); by != "" {
		hint += "\n" + by
	}
	return hinted(fmt.Errorf("device %d: server %d does not leave: %w", u.info.ID, u.info.ServerPID, err), "%s", hint)
}

// fallBack has the old program serve the device again. It gets its own time: the
// disk waits.
func (u *upgrade) fallBack(cause error, exe *os.File) error {
	ctx, cancel := context.WithTimeout(context.Background(), ctrl.DefaultTimeout)
	defer cancel()
	path := fmt.Sprintf("/proc/self/fd/%d", exe.Fd())
	if _, err := server.SpawnExecutable(ctx, path, u.job); err != nil {
		return hinted(errors.Join(cause, fmt.Errorf("device %d: the old program: %w", u.info.ID, err)), "The disk waits for a server: ublk recover %d", u.info.ID)
	}
	return hinted(cause, "A server of the old program has taken over again. Nothing was lost.")
}

// openExecutable opens the program that a process runs. The number of the
// descriptor is out of the way of those that a child is given.
func openExecutable(pid int) (*os.File, error) {
	path := fmt.Sprintf("/proc/%d/exe", pid)
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 100)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// print prints what upgrade would do, after all that can be checked has been.
func (u *upgrade) print() error {
	id := field{"dev_id", u.info.ID}
	for _, c := range []sent{
		{"QUIESCE_DEV", object{id, {"timeout_ms", quiesceAgain.Milliseconds()}}},
		{"START_USER_RECOVERY", object{id}},
		{"serve", object{id, {"type", u.job.Config.Type}}},
		{"END_USER_RECOVERY", object{id, {"pid", "the new server's"}}},
	} {
		if _, err := fmt.Fprintln(u.app.stdout, c); err != nil {
			return err
		}
	}
	return nil
}
