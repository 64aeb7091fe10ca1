package sysfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// PIDFD is a handle on one process that no later process with the same pid can
// take over. No privilege is needed to have one and to wait on it.
type PIDFD struct{ file *os.File }

// OpenPIDFD returns a handle on a process that need not be a child;
// fs.ErrNotExist if there is none.
func OpenPIDFD(pid int) (*PIDFD, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, gone(fmt.Errorf("open pidfd of %d: %w", pid, err))
	}
	return &PIDFD{os.NewFile(uintptr(fd), fmt.Sprintf("pidfd %d", pid))}, nil
}

// Wait returns nil once the process has exited, reaped or not, and the
// context's error if that ends first. One caller at a time.
func (p *PIDFD) Wait(ctx context.Context) error {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return err
	}
	defer interrupt(ctx, p.file)()
	err = raw.Read(func(fd uintptr) bool { return readable(int(fd)) })
	return interrupted(ctx, err)
}

// Exited says whether the process has exited.
func (p *PIDFD) Exited() bool {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return false
	}
	exited := false
	return raw.Control(func(fd uintptr) { exited = readable(int(fd)) }) == nil && exited
}

// ExitStatus is how the process ended, as wait(2) tells its parent. ok is false
// while it lives or has not been reaped, and before Linux 6.15, which tells
// nobody but the parent.
func (p *PIDFD) ExitStatus() (status unix.WaitStatus, ok bool) {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return 0, false
	}
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	controlErr := raw.Control(func(fd uintptr) { err = unix.IoctlPidfdInfo(int(fd), &info) })
	ok = controlErr == nil && err == nil && info.Mask&unix.PIDFD_INFO_EXIT != 0
	return unix.WaitStatus(info.Exit_code), ok
}

// Signal sends a signal; fs.ErrNotExist if the process has exited.
func (p *PIDFD) Signal(signal unix.Signal) error {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return err
	}
	controlErr := raw.Control(func(fd uintptr) { err = unix.PidfdSendSignal(int(fd), signal, nil, 0) })
	return gone(errors.Join(controlErr, err))
}

// Close releases the handle and ends a Wait.
func (p *PIDFD) Close() error { return p.file.Close() }

// readable polls without waiting. A pidfd turns readable when its process exits.
func readable(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n == 1
}

// interrupt makes reads from file fail once the context ends, until the function
// that it returns is called.
func interrupt(ctx context.Context, file *os.File) (stop func()) {
	ran := make(chan struct{})
	cancel := context.AfterFunc(ctx, func() {
		defer close(ran)
		file.SetReadDeadline(time.Unix(1, 0))
	})
	return func() {
		if !cancel() {
			<-ran // else its deadline could end a later read
			file.SetReadDeadline(time.Time{})
		}
	}
}

// interrupted is the context's error where the context was the cause of err.
func interrupted(ctx context.Context, err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
