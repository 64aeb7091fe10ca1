package cmd

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"ublk/ctrl"
	"ublk/internal/sysfs"
	"ublk/server"
)

// fileTime bounds reading files of the kernel that a wedged device can hold up.
const fileTime = 2 * time.Second

// within runs read, and gives up on it after fileTime.
func within[T any](read func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := read()
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-time.After(fileTime):
		var none T
		return none, context.DeadlineExceeded
	}
}

// look finds out about one device what cannot hang. Without a client it is what
// sysfs shows. The error matches ctrl.ErrNoDevice where there is no such device.
func (a *app) look(ctx context.Context, client *ctrl.Client, id int) (row, error) {
	r := row{ID: id}
	if client != nil {
		info, err := client.Info(ctx, id)
		switch {
		case err == nil:
			r.Info = &info
		case !errors.Is(err, fs.ErrPermission) || isRingRefused(a, err):
			return row{}, err
		default:
			a.unprivileged()
		}
	}
	if _, err := a.fs.CharDev(id); err != nil && r.Info == nil {
		return row{}, noDeviceError(id)
	}
	if disk, err := within(func() (sysfs.Disk, error) { return a.fs.Disk(id) }); disk.Name != "" || err == nil {
		r.Disk = &disk
	}
	if r.Info != nil {
		r.Server = a.serverOf(r.Info)
		if cfg, err := server.Remembered(*r.Info); err == nil {
			r.Config = &cfg
		}
	}
	return r, nil
}

// serverOf is the process that serves a device. Old kernels go on naming one
// that has died.
func (a *app) serverOf(info *ctrl.DevInfo) *sysfs.Process {
	if info.ServerPID <= 0 {
		return nil
	}
	process, err := a.fs.ProcessStat(info.ServerPID)
	if err != nil || process.State == 'Z' || process.State == 'X' {
		return nil
	}
	return &process
}

// sample is what the health of a device is judged by.
func (a *app) sample(r *row) sysfs.Sample {
	s := sysfs.Sample{State: sysfs.StateUnknown, HasDisk: r.Disk != nil}
	switch {
	case r.Info == nil && r.Disk == nil:
		s.State = sysfs.StateDead
		return s
	case r.Info == nil:
		return s
	}
	s.State = int(r.Info.State)
	if r.Info.State == ctrl.Live {
		if s.Server = 'X'; r.Server != nil {
			s.Server = r.Server.State
		}
	}
	if r.Disk != nil {
		s.DiskSeq = r.Disk.DiskSeq
		s.Stat, _ = a.fs.Stat(r.ID)
		s.Inflight, _ = a.fs.Inflight(r.ID)
	}
	return s
}

// How long devices with requests under way are watched for one of them to
// complete, before they are taken to be stuck.
const (
	judgeTime = time.Second
	judgeStep = 50 * time.Millisecond
)

// judge fills in the health of devices. One look is enough for idle ones; the
// others are watched until they have moved.
func (a *app) judge(ctx context.Context, rows []row) {
	first := make([]sysfs.Sample, len(rows))
	var watched []int
	for i := range rows {
		first[i] = a.sample(&rows[i])
		rows[i].Health = sysfs.Derive(sysfs.Sample{}, first[i])
		if first[i].Busy() {
			watched = append(watched, i)
		}
	}
	for end := time.Now().Add(judgeTime); len(watched) > 0 && ctx.Err() == nil; {
		select {
		case <-ctx.Done():
		case <-time.After(judgeStep):
		}
		last := !time.Now().Before(end)
		still := watched[:0]
		for _, i := range watched {
			now := a.sample(&rows[i])
			switch {
			case last:
				rows[i].Health = sysfs.Derive(first[i], now)
			case now.Busy() && now.Stat.Done() == first[i].Stat.Done():
				still = append(still, i)
			}
		}
		if watched = still; last {
			break
		}
	}
}
