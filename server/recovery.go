package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/internal/rundir"
	"ublk/internal/sysfs"
	"ublk/internal/uapi"
)

// ErrNotWaiting is the error of a recovery of a device that has no disk: it was
// never started, was stopped, or was added without recovery and lost its server.
var ErrNotWaiting = errors.New("the device is DEAD: there is no disk to recover")

// exiting is PF_EXITING of a process's flags.
const exiting = 0x4

// AwaitLoss waits until a device is no longer LIVE, which follows its server's
// death by some milliseconds and is announced by nothing. A server that lives is
// ErrLive at once. When ctx ends first the error says who still has the char
// device open.
func AwaitLoss(ctx context.Context, client *ctrl.Client, machine *sysfs.FS, id int) (ctrl.DevInfo, error) {
	for begin := time.Now(); ; {
		info, err := client.Info(ctx, id)
		if err != nil || info.State != ctrl.Live {
			return info, err
		}
		if served(machine, &info) {
			return info, fmt.Errorf("device %d: %w: process %d", id, ErrLive, info.ServerPID)
		}
		select {
		case <-ctx.Done():
			return info, fmt.Errorf("device %d: its server is gone, and %s: %w", id, holder(machine, id), ctx.Err())
		case <-time.After(nextLook(begin)):
		}
	}
}

// served says whether a LIVE device has a server that is not about to end.
func served(machine *sysfs.FS, info *ctrl.DevInfo) bool {
	if !Alive(machine, info) {
		return false
	}
	_, held, err := machine.CharHolder(info.ID)
	return held || err != nil
}

// Alive says whether the process that the driver names as a device's server
// lives and is not about to end. Old kernels go on naming one that has died,
// whose pid may be another's by now.
func Alive(machine *sysfs.FS, info *ctrl.DevInfo) bool {
	if info.ServerPID <= 0 {
		return false
	}
	p, err := machine.ProcessStat(info.ServerPID)
	return err == nil && p.State != 'Z' && p.State != 'X' && p.Flags&exiting == 0
}

// holder says who has the char device of a device open that has lost its server.
func holder(machine *sysfs.FS, id int) string {
	pid, held, err := machine.CharHolder(id)
	switch {
	case held:
		name := "?"
		if p, err := machine.ProcessStat(pid); err == nil {
			name = p.Comm
		}
		return fmt.Sprintf("%s is still open in process %d (%s)", ctrl.CharPath(id), pid, name)
	case err != nil:
		return fmt.Sprintf("who still has %s open cannot be seen", ctrl.CharPath(id))
	}
	return fmt.Sprintf("the kernel has not released %s yet: I/O of the dead server is still under way", ctrl.CharPath(id))
}

// awaitRecoverable returns when a device waits for a new server.
func awaitRecoverable(ctx context.Context, client *ctrl.Client, id int) error {
	info, err := AwaitLoss(ctx, client, sysfs.New("/"), id)
	if err == nil && info.State == ctrl.Dead {
		err = fmt.Errorf("device %d: %w", id, ErrNotWaiting)
	}
	return err
}

// FromKernel is what the driver knows of a device's configuration: all but the
// target.
func FromKernel(info ctrl.DevInfo) Config {
	return Config{
		Queues: info.Queues, Depth: info.Depth, MaxIOBytes: info.MaxIOBytes, Recovery: info.Recovery(),
		Data: ModeOf(info.Flags), Batch: info.Flags.Has(uapi.FlagBatchIO), Unprivileged: info.Unprivileged(),
	}
}

// Remember writes the configuration of a device that exists into its state
// folder, where the next recovery finds it. What else is in the folder stays.
// A device whose adder left no token cannot be told from a later one of the same
// id: nothing is written, and the error is rundir.ErrForeign.
func Remember(info ctrl.DevInfo, cfg Config) error {
	if info.ServerFlags == 0 {
		return fmt.Errorf("device %d was not added by ublk: %w", info.ID, rundir.ErrForeign)
	}
	dir := rundir.Default().Dir(info.ID)
	if err := dir.Create(); err != nil {
		return err
	}
	return writeConfig(dir, info.ServerFlags, cfg)
}

// rememberSize tells the next server of a device that it was resized. A disk that
// is all of a file is as large as the file.
func rememberSize(dir rundir.Dir, bytes int64) error {
	stored, err := dir.ReadConfig()
	if err != nil {
		return err
	}
	var cfg Config
	if err := json.Unmarshal(stored.Body, &cfg); err != nil {
		return err
	}
	if _, sized := cfg.Options["size"]; !sized && cfg.Options["file"] != "" {
		return nil
	}
	if cfg.Options == nil {
		cfg.Options = map[string]string{}
	}
	cfg.Options["size"] = strconv.FormatInt(bytes, 10)
	return writeConfig(dir, stored.Token, cfg)
}

func writeConfig(dir rundir.Dir, token uint64, cfg Config) error {
	boot, err := rundir.BootID()
	if err != nil {
		return err
	}
	body, err := json.Marshal(cfg)
	if err != nil {
		return err
	}
	return dir.WriteConfig(rundir.Config{Token: token, BootID: boot, ID: dir.ID, Name: cfg.Name, Body: body})
}

// AwaitLeave waits until a device is no longer LIVE, whoever serves it.
func AwaitLeave(ctx context.Context, client *ctrl.Client, id int) (ctrl.DevInfo, error) {
	for begin := time.Now(); ; {
		info, err := client.Info(ctx, id)
		if err != nil || info.State != ctrl.Live {
			return info, err
		}
		select {
		case <-ctx.Done():
			return info, fmt.Errorf("device %d is still LIVE: %w", id, ctx.Err())
		case <-time.After(nextLook(begin)):
		}
	}
}

// AwaitLive waits until a device has a server. What makes it LIVE is not
// announced either.
func AwaitLive(ctx context.Context, client *ctrl.Client, id int) (ctrl.DevInfo, error) {
	for begin := time.Now(); ; {
		info, err := client.Info(ctx, id)
		if err != nil || info.State == ctrl.Live {
			return info, err
		}
		select {
		case <-ctx.Done():
			return info, fmt.Errorf("device %d is still %s: %w", id, info.State, ctx.Err())
		case <-time.After(nextLook(begin)):
		}
	}
}

// nextLook is how long to wait before something is looked at again that is not
// announced: an eighth of the time that it has lasted already, so that it is
// noticed that much too late at most, from 1 to 50 ms.
func nextLook(begin time.Time) time.Duration {
	return min(max(time.Since(begin)/8, time.Millisecond), 50*time.Millisecond)
}

// startRecovery sends START_USER_RECOVERY until the dead server has been let go
// of, or the device has been stopped.
func (d *Device) startRecovery(ctx context.Context) error {
	err := retryBusy(ctx, func() error {
		err := d.client.StartRecovery(ctx, d.info.ID)
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		if now, ierr := d.client.Info(ctx, d.info.ID); ierr == nil && now.State == ctrl.Dead {
			return fmt.Errorf("device %d: %w", d.info.ID, ErrNotWaiting)
		}
		return err
	})
	if errors.Is(err, unix.EINVAL) && d.info.Recovery() != ctrl.RecoveryNone {
		return fmt.Errorf("an earlier recovery was cut off, and this kernel takes no other: %w", err)
	}
	return err
}
