package cmd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/internal/table"
	"ublk/internal/units"
	"ublk/internal/watch"
	"ublk/server"
	"ublk/server/target"
)

type recoverOptions struct {
	devices deviceArgs
	config  configFlags
	dryRun  bool
	json    bool
	timeout time.Duration
}

func newRecoverCommand(a *app) *cobra.Command {
	o := recoverOptions{timeout: ctrl.DefaultTimeout}
	cmd := &cobra.Command{
		Use:   "recover DEVICE...",
		Short: "give devices whose server died a new one",
		Long: "Give devices that were added with --recovery and have lost their server a new one, of the configuration that they were added with.\n" +
			"The disk stays, and so do the file systems on it; I/O that waited goes on. Devices are recovered side by side, one that lies on\n" +
			"another after that. A device that has a server is refused; to replace that: ublk upgrade.\n\n" +
			"A server that has just died is waited for until the kernel has let go of it. Where the configuration is lost, or was never known\n" +
			"because another program served the device, --type and the options of that type say what it is. Queues, depth, flags and\n" +
			"parameters are the device's in any case.\n\n" +
			recoveryHelp,
		Example: "  ublk recover 0\n  ublk recover --all\n  ublk recover 3 --type loop --file /srv/disk.img",
		RunE:    a.action(func(ctx context.Context, args []string) error { return a.runRecover(ctx, &o, args) }),
	}
	o.devices.many(a, cmd, false)
	o.config.add(cmd, slices.DeleteFunc(slices.Concat(targetOptions(), configOptions()), func(c configOption) bool { return !c.serve }))
	flags := cmd.Flags()
	flags.BoolVar(&o.dryRun, "dry-run", false, "print what would be done, in which order")
	flags.BoolVarP(&o.json, "json", "J", false, "print the devices as list -J does")
	option(flags, &o.timeout, "timeout", "", units.FormatAge(o.timeout), "give up on a device after `TIME` (seconds, or as in 500ms, 2m)", units.ParseDuration)
	return cmd
}

// recoveryHelp says in plain words what the modes mean.
const recoveryHelp = `What happens when the server of a device dies, by the mode of ublk add --recovery:

               I/O that the server held      other I/O, until there is a server   the disk
  (none)       fails (EIO)                   fails, the disk is gone              is removed
  requeue      fails (EIO)                   waits                                stays
  reissue      waits, is done once more      waits                                stays
  fail         fails (EIO)                   fails at once (EREMOTEIO)            stays

Writes that were answered before the crash are in the backing, as far as the backing goes: a disk without flush may lose them only
if the whole machine fails. Only reissue hides a crash completely: nobody sees an error. Its price is that a write may be done
twice, the second time the same bytes to the same place. Files and block devices (loop), null and memory do not mind; a backend
where the same write twice is not the same as once (one that appends, or counts, or sends messages) must use requeue.
While I/O waits, it waits without bound, and its processes cannot be killed: have ublk watch running.`

// recovery is a device about to get a new server.
type recovery struct {
	watch.Step
	info   ctrl.DevInfo
	config server.Config
	lost   bool // the configuration comes from the command line
	unlock func()
}

func (a *app) runRecover(ctx context.Context, o *recoverOptions, args []string) error {
	ids, codes, err := o.devices.targets(ctx, a, args)
	if err != nil {
		return err
	}
	single := len(ids)+len(codes) == 1 && !o.devices.all
	if !single && o.config.any() {
		return usagef("options of a target are for one device at a time")
	}
	plans, failed := a.planRecoveries(ctx, o, ids)
	defer func() {
		for _, r := range plans {
			r.unlock()
		}
	}()
	errs := a.recoverAll(ctx, o, plans)
	var done []int
	for i, r := range plans {
		if errs[i] == nil {
			done = append(done, r.ID)
		}
	}
	if !o.dryRun {
		if err := a.printRecovered(done, o.json); err != nil {
			return err
		}
	}
	failed = append(failed, errs...)
	if single {
		return errors.Join(failed...)
	}
	for _, err := range failed {
		codes = append(codes, a.report(err))
	}
	return together(codes)
}

// any says whether any of the options was given.
func (c *configFlags) any() bool {
	return slices.ContainsFunc(c.given, func(f *configFlag) bool { return c.set.Changed(f.name) })
}

// planRecoveries finds out, of all devices at the same time, which can be
// recovered and how, and takes their locks. With --all a device that has a
// server, or no disk, is none of our business.
func (a *app) planRecoveries(ctx context.Context, o *recoverOptions, ids []int) (plans []*recovery, errs []error) {
	found, failed := make([]*recovery, len(ids)), make([]error, len(ids))
	if _, err := a.connect(); err != nil {
		return nil, []error{err}
	}
	var wg sync.WaitGroup
	for i, id := range ids {
		wg.Go(func() { found[i], failed[i] = a.planRecovery(ctx, o, id) })
	}
	wg.Wait()
	for i, r := range found {
		switch {
		case failed[i] == nil:
			plans = append(plans, r)
		case o.devices.all && (errors.Is(failed[i], server.ErrLive) || errors.Is(failed[i], server.ErrNotWaiting) || errors.Is(failed[i], ctrl.ErrNoDevice)):
		default:
			errs = append(errs, failed[i])
		}
	}
	return plans, errs
}

func (a *app) planRecovery(ctx context.Context, o *recoverOptions, id int) (*recovery, error) {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	unlock, err := a.lock(ctx, id)
	if err != nil {
		return nil, err
	}
	r := &recovery{Step: watch.Step{ID: id}, unlock: unlock}
	if err := a.fillRecovery(ctx, o, r); err != nil {
		unlock()
		return nil, err
	}
	return r, nil
}

func (a *app) fillRecovery(ctx context.Context, o *recoverOptions, r *recovery) error {
	client, info, err := a.device(ctx, r.ID)
	if err != nil {
		return err
	}
	who := func() string { return a.holdUp(info) }
	err = a.waiting(fmt.Sprintf("the dead server of device %d", r.ID), who, func() error {
		r.info, err = server.AwaitLoss(ctx, client, a.fs, r.ID)
		return err
	})
	switch {
	case err != nil:
		return err
	case r.info.State == ctrl.Dead && r.info.Recovery() == ctrl.RecoveryNone:
		return hinted(fmt.Errorf("device %d: %w, and it was added without recovery", r.ID, server.ErrNotWaiting), "Serve it anew: ublk serve %d. To have its disk outlive its server, add it with --recovery.", r.ID)
	case r.info.State == ctrl.Dead:
		return hinted(fmt.Errorf("device %d: %w", r.ID, server.ErrNotWaiting), "Serve it anew: ublk serve %d", r.ID)
	}
	if r.config, r.lost, err = a.recoveryConfig(&r.info, &o.config); err != nil {
		return err
	}
	r.Below, err = watch.Below(r.config)
	return err
}

// recoveryConfig is the remembered configuration with what the command line
// changes, or all of it from the command line where it is lost.
func (a *app) recoveryConfig(info *ctrl.DevInfo, given *configFlags) (cfg server.Config, lost bool, err error) {
	cfg, err = server.Remembered(*info)
	if err != nil {
		lost = true
		if !given.changed("type") {
			return cfg, lost, hinted(err, "Say what it is: ublk recover %d --type TYPE ...\nOr end it, which fails the I/O that waits: ublk del --force %d", info.ID, info.ID)
		}
		cfg = server.FromKernel(*info)
	}
	if err := given.apply(&cfg); err != nil {
		return cfg, lost, err
	}
	if mode := server.ModeOf(info.Flags); mode != server.DataUserCopy || cfg.Data != server.DataNone {
		cfg.Data = mode
	}
	return cfg, lost, nil
}

// recoverAll recovers what was planned, each device after those below it.
func (a *app) recoverAll(ctx context.Context, o *recoverOptions, plans []*recovery) []error {
	steps := make([]watch.Step, len(plans))
	planned := map[int]bool{}
	for i, r := range plans {
		steps[i], planned[r.ID] = r.Step, true
	}
	var mu sync.Mutex // of the output of --dry-run
	return watch.InOrder(ctx, steps, func(ctx context.Context, i int) error {
		ctx, cancel := context.WithTimeout(ctx, o.timeout)
		defer cancel()
		r := plans[i]
		err := watch.Standing(ctx, a.client, a.fs, r.Step, func(id int) bool { return planned[id] })
		switch {
		case err != nil:
			return err
		case o.dryRun:
			mu.Lock()
			defer mu.Unlock()
			return a.printRecovery(r, o.json)
		}
		return a.recover(ctx, r)
	})
}

// recover gives one device its new server.
func (a *app) recover(ctx context.Context, r *recovery) error {
	if r.lost {
		if err := a.checkBacking(ctx, r); err != nil {
			return err
		}
	}
	_ = watch.NoteDeath(a.state.Dir(r.ID)) // only info will miss it
	var started *server.Started
	err := a.waiting(fmt.Sprintf("device %d to become LIVE", r.ID), func() string { return "" }, func() (err error) {
		started, err = a.spawn(ctx, server.Job{Action: server.ActionRecover, ID: r.ID, Config: r.config})
		return err
	})
	if err != nil {
		return fmt.Errorf("device %d: %w", r.ID, err)
	}
	a.warn(started.Warnings)
	if !r.lost {
		return nil
	}
	if err := server.Remember(r.info, r.config); err != nil {
		a.warn([]string{fmt.Sprintf("device %d is LIVE, but its configuration is not remembered: %v", r.ID, err)})
	}
	return nil
}

// checkBacking makes sure that a disk that was described by hand has the size
// that the device has: another one would hand its users foreign data.
func (a *app) checkBacking(ctx context.Context, r *recovery) error {
	disk, err := target.Open(r.config)
	if errors.Is(err, unix.EBUSY) {
		return nil // the dead server's rings hold it yet; the new one will wait
	}
	if err != nil {
		return err
	}
	have := disk.Params().Basic
	if err := disk.Close(); err != nil {
		return err
	}
	params, err := a.client.Params(ctx, r.ID)
	if err != nil || params.Basic == nil || have == nil || have.DevSectors == params.Basic.DevSectors {
		return err
	}
	want, got := params.Basic.DevSectors*ctrl.SectorSize, have.DevSectors*ctrl.SectorSize
	return hinted(fmt.Errorf("device %d has %d bytes, what --type and its options describe has %d", r.ID, want, got),
		"It may be the wrong file. If it is the right one: --size %d", want)
}

// printRecovery prints what recover would do.
func (a *app) printRecovery(r *recovery, asJSON bool) error {
	id := field{"dev_id", r.ID}
	commands := []sent{
		{"START_USER_RECOVERY", object{id}},
		{"serve", object{id, {"type", r.config.Type}, {"backing", r.config.Options["file"]}}},
		{"END_USER_RECOVERY", object{id, {"pid", "the server's"}}},
	}
	if r.config.Options["file"] == "" {
		commands[1].fields = commands[1].fields[:2]
	}
	if asJSON {
		return a.printJSON(object{{"commands", commands}})
	}
	for _, c := range commands {
		if _, err := fmt.Fprintln(a.stdout, c); err != nil {
			return err
		}
	}
	return nil
}

// printRecovered prints the nodes of the devices that have a server now.
func (a *app) printRecovered(ids []int, asJSON bool) error {
	if !asJSON {
		for _, id := range ids {
			if err := a.printDevice(id, false); err != nil {
				return err
			}
		}
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookTime)
	defer cancel()
	rows := []row{}
	for _, id := range ids {
		r, err := a.look(ctx, a.client, id)
		if err != nil {
			return fmt.Errorf("device %s: %w", strconv.Itoa(id), err)
		}
		rows = append(rows, r)
	}
	a.judge(ctx, rows)
	return deviceTable().Write(a.stdout, rows, table.Options{Format: table.JSON})
}
