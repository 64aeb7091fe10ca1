package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/internal/sysfs"
)

// stop ends the device on a signal: stop, drain, close, delete. While somebody
// uses the device it says who and goes on serving; a second signal stops
// anyway.
func (p *process) stop(s os.Signal) error {
	id := p.device.info.ID
	p.log.Printf("device %d: %v", id, s)
	forced, err := p.stopUnused()
	if err != nil {
		return err
	}
	if err := p.device.Wait(); err != nil {
		return err
	}
	if err := errors.Join(p.control.close(), p.device.Close()); err != nil {
		return err
	}
	if err := p.remove(func() error { return p.delete(forced) }); err != nil {
		return err
	}
	p.log.Printf("device %d: stopped and deleted", id)
	return nil
}

// stopUnused stops the device as soon as nobody uses it; forced reports that a
// second signal came first. It returns early when the device is stopped by
// somebody else.
func (p *process) stopUnused() (forced bool, err error) {
	id := p.device.info.ID
	changes := watchUse(p.device.Path(), p.device.Done())
	said := ""
	for {
		err := p.tryStop(id)
		if !errors.Is(err, ctrl.ErrBusy) {
			return false, err
		}
		if who := err.Error(); who != said {
			p.log.Printf("%s; serving on until it is released (a second signal stops anyway)", who)
			said = who
		}
		select {
		case <-p.device.Done():
			return false, nil
		case s := <-p.signals:
			p.log.Printf("device %d: %v again: stopping in use", id, s)
			ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
			defer cancel()
			return true, p.client.Stop(ctx, id)
		case <-changes:
		}
	}
}

// tryStop stops a device that nobody uses; else the error matches ErrBusy and
// names the users. TRY_STOP_DEV decides in one step where the kernel has it.
func (p *process) tryStop(id int) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
	defer cancel()
	err := p.client.TryStop(ctx, id)
	var missing *ctrl.UnsupportedError
	switch {
	case errors.As(err, &missing):
		if who := usersOf(id); who != "" {
			return &busyError{id, who}
		}
		return p.client.Stop(ctx, id)
	case errors.Is(err, ctrl.ErrBusy):
		return &busyError{id, usersOf(id)}
	case errors.Is(err, unix.ENODEV): // stopped by somebody else meanwhile
		return nil
	}
	return err
}

type busyError struct {
	id  int
	who string
}

func (e *busyError) Error() string {
	if e.who == "" {
		return fmt.Sprintf("device %d is in use", e.id)
	}
	return fmt.Sprintf("device %d is in use: %s", e.id, e.who)
}

func (e *busyError) Is(target error) bool { return target == ctrl.ErrBusy }

// usersOf names who uses the device; empty when nobody is seen.
func usersOf(id int) string {
	users, _, err := sysfs.New("/").Users(id)
	if err != nil {
		return ""
	}
	names := make([]string, len(users))
	for i, u := range users {
		names[i] = u.String()
	}
	return strings.Join(names, "; ")
}

// delete removes the device. After a forced stop an opener may hold on to the
// old disk for long: then the id is freed behind our back.
func (p *process) delete(forced bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
	defer cancel()
	if forced {
		err := p.client.DelAsync(ctx, p.device.info.ID)
		if err == nil || !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, unix.EINVAL) {
			return err
		}
	}
	return p.device.Delete(ctx)
}

// watchUse signals when the use of a block device may have changed: a close of
// its node (inotify), a mount or umount (mountinfo), and once a second for what
// neither shows: a close by another node, a holder of the kernel's own.
func watchUse(path string, done <-chan struct{}) <-chan struct{} {
	changes := make(chan struct{}, 1)
	go func() {
		fds := []unix.PollFd{{Fd: -1, Events: unix.POLLIN}, {Fd: -1, Events: unix.POLLPRI}}
		if fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK); err == nil {
			defer unix.Close(fd)
			if _, err := unix.InotifyAddWatch(fd, path, unix.IN_CLOSE|unix.IN_DELETE_SELF); err == nil {
				fds[0].Fd = int32(fd)
			}
		}
		if f, err := os.Open("/proc/self/mountinfo"); err == nil {
			defer f.Close()
			fds[1].Fd = int32(f.Fd())
		}
		var events [4096]byte
		for {
			_, _ = unix.Poll(fds, int(time.Second.Milliseconds()))
			if fds[0].Revents != 0 {
				_, _ = unix.Read(int(fds[0].Fd), events[:])
			}
			select {
			case <-done:
				return
			case changes <- struct{}{}:
			default:
			}
		}
	}()
	return changes
}
