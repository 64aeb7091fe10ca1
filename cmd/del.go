package cmd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/internal/sysfs"
	"ublk/internal/uapi"
	"ublk/internal/units"
	"ublk/server"
)

type delOptions struct {
	devices deviceArgs
	force   bool
	async   bool
	dryRun  bool
	timeout time.Duration
}

func newDelCommand(a *app) *cobra.Command {
	o := delOptions{timeout: ctrl.DefaultTimeout}
	cmd := &cobra.Command{
		Use:     "del DEVICE...",
		Aliases: []string{"delete", "rm"},
		Short:   "stop and delete devices",
		Long: "Stop devices and delete them, of any server. A device that is mounted, held by md, dm or swap, or open is refused, and who\n" +
			"uses it is named, in every mount namespace. udev, which looks at every new disk, is waited for. Of several devices some are deleted\n" +
			"at the same time; one that the server of another uses goes after that.",
		Example: "  ublk del 0\n  ublk del --all\n  ublk del --force --timeout 5 disk-1",
		RunE:    a.action(func(ctx context.Context, args []string) error { return a.runDel(ctx, &o, args) }),
	}
	o.devices.many(a, cmd, false)
	flags := cmd.Flags()
	flags.BoolVarP(&o.force, "force", "f", false, "delete it though it is in use: its users get I/O errors")
	flags.BoolVar(&o.async, "async", false, "do not wait until the number is free (DEL_DEV_ASYNC)")
	flags.BoolVar(&o.dryRun, "dry-run", false, "print what would be sent to the driver")
	option(flags, &o.timeout, "timeout", "", units.FormatAge(o.timeout), "give up on a device after `TIME` (seconds, or as in 500ms, 2m)", units.ParseDuration)
	return cmd
}

// runDel deletes devices, some at a time. One may be in use by the server of
// another: those that are refused are tried again as long as others go.
func (a *app) runDel(ctx context.Context, o *delOptions, args []string) error {
	targets, codes, err := o.devices.targets(ctx, a, args)
	if err != nil {
		return err
	}
	if len(targets) == 1 && len(codes) == 0 {
		return a.delete(ctx, o, targets[0])
	}
	if _, err := a.connect(); err != nil {
		return err
	}
	for len(targets) > 0 {
		errs := make([]error, len(targets))
		most := 4 // each takes processes of its own
		if o.dryRun {
			most = 1 // one plan after the other
		}
		var few errgroup.Group
		few.SetLimit(most)
		for i, id := range targets {
			few.Go(func() error { errs[i] = a.delete(ctx, o, id); return nil })
		}
		_ = few.Wait()           // errs has them
		var refused, inUse []int // devices, and where their errors are
		for i, err := range errs {
			if used := (*inUseError)(nil); errors.As(err, &used) {
				refused, inUse = append(refused, targets[i]), append(inUse, i)
				continue
			}
			codes = append(codes, a.report(err))
			if ctx.Err() != nil {
				return reportedError{codes[len(codes)-1]}
			}
		}
		if len(refused) == len(targets) || o.dryRun {
			for _, i := range inUse {
				codes = append(codes, a.report(errs[i]))
			}
			break
		}
		targets = refused
	}
	return together(codes)
}

// targets resolves the devices, each once. With several, those that do not
// exist are reported and leave their exit codes.
func (d *deviceArgs) targets(ctx context.Context, a *app, args []string) (ids, codes []int, err error) {
	if d.all {
		ids, err = a.allDevices()
		return ids, nil, err
	}
	args = slices.Concat(d.numbers, args)
	for _, arg := range args {
		id, err := a.resolve(ctx, arg)
		switch {
		case err != nil && len(args) == 1:
			return nil, nil, err
		case err != nil:
			codes = append(codes, a.report(err))
		case !slices.Contains(ids, id):
			ids = append(ids, id)
		}
	}
	return ids, codes, nil
}

// delete stops and deletes one device.
func (a *app) delete(ctx context.Context, o *delOptions, id int) error {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	client, info, err := a.device(ctx, id)
	if err != nil {
		return err
	}
	if o.dryRun {
		return a.planDelete(ctx, client, o, &info)
	}
	unlock, err := a.lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	if info, err = client.Info(ctx, id); err != nil {
		return err
	}
	_, notOurs := server.Remembered(info)
	holder := a.openHolder(&info)
	if holder != nil {
		defer holder.Close()
	}
	who := func() string { return a.holdUp(info) }
	what := fmt.Sprintf("device %d to stop", id)
	if err := a.waiting(what, who, func() error { return a.stopForDelete(ctx, client, o, id) }); err != nil {
		return err
	}
	if holder != nil && notOurs == nil {
		what := fmt.Sprintf("server %d to end", info.ServerPID)
		if err := a.waiting(what, who, func() error { return holder.Wait(ctx) }); err != nil {
			return fmt.Errorf("device %d: stopped, but %s, which has %s open, does not end: %w", id, a.whoIs(info.ServerPID), ctrl.CharPath(id), err)
		}
	}
	what = fmt.Sprintf("everybody to let go of device %d", id)
	err = a.waiting(what, func() string { return a.heldBy(info) }, func() error { return a.sendDelete(ctx, client, o, id) })
	if errors.Is(err, context.DeadlineExceeded) && !a.deviceThere(id) {
		_ = a.state.Dir(id).Remove()
		return hinted(fmt.Errorf("device %d: deleted, but its number is not free yet: %w", id, context.DeadlineExceeded), "%s", a.heldBy(info))
	}
	if err != nil {
		return err
	}
	return a.state.Dir(id).Remove()
}

// openHolder is a handle on the server of a device, nil if it has none.
func (a *app) openHolder(info *ctrl.DevInfo) *sysfs.PIDFD {
	if info.ServerPID <= 0 {
		pid, ok, _ := a.fs.CharHolder(info.ID)
		if !ok {
			return nil
		}
		info.ServerPID = pid
	}
	holder, err := sysfs.OpenPIDFD(info.ServerPID)
	if err != nil {
		return nil
	}
	return holder
}

// stopForDelete stops a device that nobody uses, or any with --force. Stopping
// one that is not started changes nothing for the disk, and tells a server that
// waits with it.
func (a *app) stopForDelete(ctx context.Context, client *ctrl.Client, o *delOptions, id int) error {
	if o.force {
		return client.Stop(ctx, id)
	}
	err := a.idle(ctx, id, func() error { return a.tryStop(ctx, client, id) })
	switch {
	case errors.Is(err, errors.ErrUnsupported): // a kernel without TRY_STOP_DEV; nobody was seen
		return client.Stop(ctx, id)
	case errors.Is(err, ctrl.ErrNotStarted):
		return client.Stop(ctx, id)
	}
	return err
}

// sendDelete deletes a stopped device. A disk that was stopped in use keeps its
// number until its users close it, so that nobody waits for that.
func (a *app) sendDelete(ctx context.Context, client *ctrl.Client, o *delOptions, id int) error {
	var users []sysfs.User
	if o.force {
		users, _, _ = a.fs.Users(id)
	}
	if o.async || len(users) > 0 {
		err := client.DelAsync(ctx, id)
		if err == nil && !o.async {
			fmt.Fprintf(a.stderr, "ublk: %s: device %d is deleted; its number is free when its users close it: %s\n", a.name, id, usersText(users))
		}
		// EINVAL is what unprivileged devices answer.
		if !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, unix.EINVAL) {
			return err
		}
	}
	return client.Del(ctx, id)
}

// deviceThere says whether a device has nodes.
func (a *app) deviceThere(id int) bool {
	_, err := a.fs.CharDev(id)
	return err == nil
}

// heldBy says who keeps a stopped device: the users of its disk, or else the
// server, whose char device cannot be looked for once its node is gone.
func (a *app) heldBy(info ctrl.DevInfo) string {
	if users, _, err := a.fs.Users(info.ID); err == nil && len(users) > 0 {
		return usersText(users)
	}
	return a.holdUp(info)
}

// planDelete prints what delete would send.
func (a *app) planDelete(ctx context.Context, client *ctrl.Client, o *delOptions, info *ctrl.DevInfo) error {
	if err := a.unused(info.ID); err != nil && !o.force {
		return err
	}
	have, err := client.Features(ctx)
	if err != nil {
		return err
	}
	stop, del := "STOP_DEV", "DEL_DEV"
	if info.State != ctrl.Dead && !o.force && have.Has(uapi.FlagSafeStopDev) {
		stop = "TRY_STOP_DEV"
	}
	if o.async && !info.Unprivileged() {
		del = "DEL_DEV_ASYNC"
	}
	for _, command := range []string{stop, del} {
		fmt.Fprintln(a.stdout, command+" dev_id="+strconv.Itoa(info.ID))
	}
	return nil
}
