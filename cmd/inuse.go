package cmd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/internal/rundir"
	"ublk/internal/sysfs"
)

// idle returns nil once free says that nobody uses a disk, and its error as soon
// as that is somebody other than udev, who will go by itself soon.
func (a *app) idle(ctx context.Context, id int, free func() error) error {
	ctx, cancel := context.WithTimeout(ctx, a.times.udev)
	defer cancel()
	closed, stop := a.watchClose(ctx, id) // before the first look, to miss nothing
	defer stop()
	for {
		err := free()
		var used *inUseError
		if !errors.As(err, &used) || used.stays() {
			return err
		}
		select {
		case <-closed:
		case <-ctx.Done():
			return err
		}
	}
}

// stays says whether waiting for udev is of no use.
func (e *inUseError) stays() bool {
	return slices.ContainsFunc(e.users, func(u sysfs.User) bool { return !u.UDev })
}

// unused returns an *inUseError if anybody is seen to use a device's disk.
func (a *app) unused(id int) error {
	users, partial, err := a.fs.Users(id)
	if err != nil {
		return fmt.Errorf("device %d: who uses it: %w", id, err)
	}
	if users = withoutUs(users); len(users) > 0 {
		return &inUseError{id: id, users: users, partial: partial}
	}
	return nil
}

// withoutUs leaves this process out where it only inherited what another has open.
func withoutUs(users []sysfs.User) []sysfs.User {
	others := slices.DeleteFunc(slices.Clone(users), func(u sysfs.User) bool { return u.Kind == sysfs.UserOpener && u.PID == os.Getpid() })
	if len(others) == 0 {
		return users
	}
	return others
}

// tryStop stops a device if nobody has its disk open (TRY_STOP_DEV), which the
// driver decides in one step. Only where it refuses, or cannot tell, the users are
// looked for, in all processes: that takes long. They make an *inUseError.
func (a *app) tryStop(ctx context.Context, client *ctrl.Client, id int) error {
	err := client.TryStop(ctx, id)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EBUSY):
		users, partial, _ := a.fs.Users(id)
		users = withoutUs(users)
		return &inUseError{id: id, users: users, partial: partial || len(users) == 0}
	}
	if used := a.unused(id); used != nil {
		return used
	}
	return err
}

// watchClose signals when somebody has closed a disk or one of its partitions:
// inotify tells that of device nodes as of files. What opens a disk inside the
// kernel, as the partition scan does, tells nobody: hence the tick.
func (a *app) watchClose(ctx context.Context, id int) (closed <-chan struct{}, stop func()) {
	const tick = 100 * time.Millisecond
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err == nil {
		nodes, _ := filepath.Glob(ctrl.BlockPath(id) + "p*")
		for _, node := range append(nodes, ctrl.BlockPath(id)) {
			_, _ = unix.InotifyAddWatch(fd, node, unix.IN_CLOSE)
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	events := make(chan struct{})
	go func() {
		var buffer [4096]byte
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for ctx.Err() == nil {
			if n, err := unix.Poll(fds, int(tick.Milliseconds())); n > 0 && err == nil {
				_, _ = unix.Read(fd, buffer[:])
			}
			select {
			case events <- struct{}{}:
			case <-ctx.Done():
			}
		}
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}()
	return events, cancel
}

// lock takes the lock of a device, which orders what is done to it as a whole,
// and says who holds it when that takes long. A user who has no place for locks
// does without.
func (a *app) lock(ctx context.Context, id int) (unlock func(), err error) {
	lock, err := a.state.TryLock(id)
	var held *rundir.HeldError
	if errors.As(err, &held) {
		who := func() string { return fmt.Sprintf("pid %d (%s) holds it", held.PID, held.Command) }
		err = a.waiting(fmt.Sprintf("the lock of device %d", id), who, func() error {
			lock, err = a.state.Lock(ctx, id)
			return err
		})
	}
	switch {
	case err == nil:
		return func() { _ = lock.Unlock() }, nil
	case a.euid != 0 && !errors.As(err, &held):
		return func() {}, nil
	}
	return nil, err
}
