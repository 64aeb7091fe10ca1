package cmd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/internal/sysfs"
	"ublk/internal/units"
	"ublk/server"
)

type resizeOptions struct {
	devices deviceArgs
	force   bool
	timeout time.Duration
}

func newResizeCommand(a *app) *cobra.Command {
	o := resizeOptions{timeout: ctrl.DefaultTimeout}
	cmd := &cobra.Command{
		Use:   "resize DEVICE SIZE",
		Short: "change the capacity of a device while it is in use",
		Long: "Change the capacity of a LIVE device (UPDATE_SIZE, Linux 6.16). A server of ours changes its target first; whether the server of\n" +
			"somebody else has as much behind the disk is not known. A device is made smaller only with --force: what is cut off is lost.",
		Example: "  ublk resize 0 20G",
		RunE:    a.action(func(ctx context.Context, args []string) error { return a.runResize(ctx, &o, args) }),
	}
	o.devices.one(a, cmd, 1)
	cmd.Flags().BoolVarP(&o.force, "force", "f", false, "make it smaller: what is cut off is lost")
	option(cmd.Flags(), &o.timeout, "timeout", "", units.FormatAge(o.timeout), "give up after `TIME` (seconds, or as in 500ms, 2m)", units.ParseDuration)
	return cmd
}

func (a *app) runResize(ctx context.Context, o *resizeOptions, args []string) error {
	id, rest, err := o.devices.only(ctx, a, args)
	if err != nil {
		return err
	}
	bytes, err := sectorSize(rest[0])
	if err != nil {
		return usageError{err}
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	unlock, err := a.lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	client, info, err := a.device(ctx, id)
	if err != nil {
		return err
	}
	disk, err := a.fs.Disk(id)
	if err != nil {
		return &ctrl.Error{Op: "UPDATE_SIZE", Dev: id, Err: ctrl.ErrNotStarted}
	}
	if err := checkSize(&disk, bytes, o.force); err != nil {
		return err
	}
	err = a.waiting("the server", func() string { return a.holdUp(info) }, func() error { return a.resize(ctx, client, &info, bytes) })
	if err != nil {
		return err
	}
	if disk, err = a.fs.Disk(id); err == nil && disk.Size != bytes {
		return fmt.Errorf("device %d: resized to %d bytes, but it has %d", id, bytes, disk.Size)
	}
	return nil
}

// checkSize makes the checks that the kernel does not make.
func checkSize(disk *sysfs.Disk, bytes uint64, force bool) error {
	block := max(disk.Limits.LogicalBlockSize, ctrl.SectorSize)
	switch {
	case bytes == 0:
		return usagef("device %d: a disk without any capacity is of no use; to end it: ublk del", disk.ID)
	case bytes%block != 0:
		return usagef("device %d: %d is not a multiple of the logical block size, %d bytes", disk.ID, bytes, block)
	case bytes < disk.Size && !force:
		return hinted(fmt.Errorf("device %d: it has %s (%d bytes) now, more than %s", disk.ID, units.FormatSize(disk.Size), disk.Size, units.FormatSize(bytes)),
			"Making it smaller cuts off data. Shrink the file system first; then use --force.")
	}
	return nil
}

// resize asks a server of ours, which changes its target first. A server of
// somebody else's has to be told by other means: only the driver is.
func (a *app) resize(ctx context.Context, client *ctrl.Client, info *ctrl.DevInfo, bytes uint64) error {
	if _, err := server.Remembered(*info); err == nil {
		_, err := server.Ask(ctx, a.state.Dir(info.ID), server.Call{Op: "resize", Size: int64(bytes)})
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ECONNREFUSED) {
			return err
		}
	}
	return client.UpdateSize(ctx, info.ID, bytes/ctrl.SectorSize)
}
