package cmd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"ublk/ctrl"
	"ublk/internal/rundir"
)

// maxID is the largest device number (ublk_drv.c:UBLK_MAX_UBLKS, v7.3).
const maxID = 1<<20 - 1

// deviceArgs are the devices of a command line: DEVICE arguments, -n and -a.
type deviceArgs struct {
	numbers []string
	all     bool
	most    int // devices that the command takes; 0: any number
}

// one makes cmd take exactly one DEVICE, and extra arguments of its own.
func (d *deviceArgs) one(a *app, cmd *cobra.Command, extra int) {
	d.most = 1
	d.flag(a, cmd)
	cmd.ValidArgsFunction = a.completeDevices
	cmd.Args = func(_ *cobra.Command, args []string) error {
		switch n := len(args) + len(d.numbers) - extra; {
		case n < 1 && extra == 0:
			return errors.New("which device?")
		case n < 1:
			return errors.New("too few arguments")
		case n > 1:
			return fmt.Errorf("one device at a time: %s", strings.Join(slices.Concat(d.numbers, args), " "))
		}
		return nil
	}
}

// many makes cmd take any number of DEVICEs. none tells whether no device at
// all is fine; -a exists where it is not.
func (d *deviceArgs) many(a *app, cmd *cobra.Command, none bool) {
	d.flag(a, cmd)
	cmd.ValidArgsFunction = a.completeDevices
	if !none {
		cmd.Flags().BoolVarP(&d.all, "all", "a", false, "every device")
	}
	cmd.Args = func(_ *cobra.Command, args []string) error {
		switch n := len(args) + len(d.numbers); {
		case n > 0 && d.all:
			return errors.New("--all and a device exclude each other")
		case n == 0 && !d.all && !none:
			return errors.New("which device? (--all for every one)")
		}
		return nil
	}
}

func (d *deviceArgs) flag(a *app, cmd *cobra.Command) {
	cmd.Flags().StringArrayVarP(&d.numbers, "number", "n", nil, "device `N`, as other ublk tools spell it")
	_ = cmd.RegisterFlagCompletionFunc("number", a.completeDevices)
}

// only resolves the device of a command that takes one, and returns the
// arguments that follow it.
func (d *deviceArgs) only(ctx context.Context, a *app, args []string) (id int, rest []string, err error) {
	if len(d.numbers) > 0 {
		id, err = a.resolve(ctx, d.numbers[0])
		return id, args, err
	}
	id, err = a.resolve(ctx, args[0])
	return id, args[1:], err
}

// allDevices lists what exists. Without the driver the error says so as the
// control node's does.
func (a *app) allDevices() ([]int, error) {
	ids, err := a.fs.Devices()
	if errors.Is(err, fs.ErrNotExist) {
		_, err = a.connect()
	}
	return ids, err
}

// resolve turns a DEVICE into a number. Only a name needs the driver: it counts
// if the device that had it is still the one of that number.
func (a *app) resolve(ctx context.Context, arg string) (int, error) {
	if id, ok := parseDevice(arg); ok {
		return id, nil
	}
	if strings.Contains(arg, "/") {
		if target, err := filepath.EvalSymlinks(arg); err == nil && target != arg {
			if id, ok := parseDevice(target); ok {
				return id, nil
			}
		}
		return 0, usagef("%s is no ublk device", arg)
	}
	if disk, _, found := strings.Cut(arg, "p"); found {
		if _, ok := parseDevice(disk); ok && strings.HasPrefix(disk, "ublkb") {
			return 0, usagef("%s is a partition: name its disk, %s", arg, disk)
		}
	}
	if rundir.ValidName(arg) != nil {
		return 0, usagef("%q is no device: a DEVICE is a number, ublkbN, /dev/ublkbN or a name", arg)
	}
	id, err := a.state.Lookup(arg)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, unknownNameError(arg)
	}
	if err != nil {
		return 0, err
	}
	return id, a.checkName(ctx, arg, id)
}

// checkName makes sure that the device that was given a name is still there.
func (a *app) checkName(ctx context.Context, name string, id int) error {
	_, info, err := a.device(ctx, id)
	switch {
	case errors.Is(err, ctrl.ErrNoDevice):
		return unknownNameError(name)
	case err != nil:
		return err
	}
	stored, err := a.state.Dir(id).ReadConfig()
	if err != nil {
		return err
	}
	boot, err := rundir.BootID()
	if err != nil {
		return err
	}
	if stored.Check(id, info.ServerFlags, boot) != nil {
		return unknownNameError(name)
	}
	return nil
}

type unknownNameError string

func (e unknownNameError) Error() string        { return fmt.Sprintf("no device is named %q", string(e)) }
func (e unknownNameError) Is(target error) bool { return target == ctrl.ErrNoDevice }

// noDeviceError is a device that sysfs does not show.
type noDeviceError int

func (e noDeviceError) Error() string        { return fmt.Sprintf("device %d: no such device", int(e)) }
func (e noDeviceError) Is(target error) bool { return target == ctrl.ErrNoDevice }

// parseDevice reads the spellings that need no look-up: 0, ublkb0, /dev/ublkb0
// and the same with c.
func parseDevice(arg string) (int, bool) {
	name := strings.TrimPrefix(arg, "/dev/")
	digits, isNode := strings.CutPrefix(name, "ublkb")
	if !isNode {
		digits = strings.TrimPrefix(name, "ublkc")
	}
	if digits == name && name != arg { // /dev/0
		return 0, false
	}
	id, err := strconv.ParseUint(digits, 10, 31)
	if err != nil || id > maxID || (digits != name && digits != strconv.FormatUint(id, 10)) {
		return 0, false
	}
	return int(id), true
}

// each does something to the devices one after the other, to all of them in
// ascending order with --all. One device's error is returned. Of several, each
// is printed, and the returned one carries the code that stands for all: the
// common one where all failed alike, "some" where not all failed.
func (d *deviceArgs) each(ctx context.Context, a *app, args []string, do func(ctx context.Context, id int) error) error {
	args = slices.Concat(d.numbers, args)
	if d.all {
		ids, err := a.allDevices()
		if err != nil {
			return err
		}
		for _, id := range ids {
			args = append(args, strconv.Itoa(id))
		}
	}
	var codes []int
	seen := map[int]bool{}
	for _, arg := range args {
		id, err := a.resolve(ctx, arg)
		if err == nil && seen[id] {
			continue
		}
		if err == nil {
			seen[id] = true
			err = do(ctx, id)
		}
		if len(args) == 1 {
			return err
		}
		codes = append(codes, a.report(err))
		if err != nil && ctx.Err() != nil {
			return reportedError{codes[len(codes)-1]}
		}
	}
	return together(codes)
}

// together is the error that stands for several devices' reported results.
func together(codes []int) error {
	switch {
	case len(codes) == 0 || slices.Max(codes) == exitDone:
		return nil
	case slices.Min(codes) == exitDone:
		return reportedError{exitSome}
	case slices.Min(codes) == slices.Max(codes):
		return reportedError{codes[0]}
	}
	return reportedError{exitFailed}
}
