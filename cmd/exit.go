package cmd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/internal/rundir"
	"ublk/internal/sysfs"
	"ublk/internal/table"
	"ublk/server"
)

// Exit codes. 2 is a Go panic and never chosen.
const (
	exitDone        = 0
	exitFailed      = 1
	exitSome        = 3
	exitNoDevice    = 4
	exitPermission  = 5
	exitUnsupported = 6
	exitBusy        = 7
	exitDeadline    = 8
	exitUsage       = 64
)

// ExitCode is a row of the table in --help and in the manual.
type ExitCode struct{ Code, Meaning string }

// ExitCodes lists what the exit status means.
func ExitCodes() []ExitCode {
	return []ExitCode{
		{"0", "done"},
		{"1", "failed"},
		{"3", "some of several devices failed"},
		{"4", "no such device"},
		{"5", "not permitted"},
		{"6", "not supported here: no driver, io_uring disabled, or a feature that this kernel lacks"},
		{"7", "busy: mounted, held or open, a number that is taken, or another command is at work on the device"},
		{"8", "deadline: no answer in time"},
		{"64", "wrong usage"},
		{"130, 143", "interrupted by SIGINT, SIGTERM"},
	}
}

// usageError is a command line that makes no sense.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// hintError adds to an error what to do about it.
type hintError struct {
	error
	hint string
}

func (e hintError) Unwrap() error { return e.error }

func hinted(err error, format string, args ...any) error {
	return hintError{err, fmt.Sprintf(format, args...)}
}

// reportedError stands for errors that have been printed already.
type reportedError struct{ code int }

func (e reportedError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// rule is a row of the table that turns an error into an exit code and a hint.
type rule struct {
	match func(a *app, err error) bool
	code  int
	hint  func(a *app, err error) string // nil: none
}

// rules is the one table; the first row that matches counts.
func rules() []rule {
	return []rule{
		{match: as[usageError], code: exitUsage, hint: (*app).usageHint},
		{match: as[*table.UnknownColumnError], code: exitUsage},
		{match: as[*ctrl.ParamError], code: exitUsage},
		{match: isRingRefused, code: exitUnsupported, hint: (*app).ringHint},
		{match: is(ctrl.ErrNoDriver), code: exitUnsupported, hint: (*app).driverHint},
		{match: is(errors.ErrUnsupported), code: exitUnsupported, hint: (*app).unsupportedHint},
		{match: is(ctrl.ErrNoDevice), code: exitNoDevice, hint: (*app).devicesHint},
		{match: as[*inUseError], code: exitBusy, hint: func(*app, error) string {
			return "Unmount, close or detach it first. --force stops it anyway: its users get I/O errors."
		}},
		{match: as[*rundir.HeldError], code: exitBusy},
		{match: is(server.ErrLive), code: exitBusy, hint: (*app).liveHint},
		{match: is(ctrl.ErrBusy), code: exitBusy, hint: (*app).busyHint},
		{match: is(unix.EBUSY), code: exitBusy, hint: text("Somebody else has it: it is mounted, swap, part of a volume, behind another disk or a virtual machine. --shared takes it all the same.")},
		{match: isStarted, code: exitBusy, hint: text("The device is started, or its old disk is still open: parameters are set before START_DEV. Try: ublk stop, then wait until nobody has it open.")},
		{match: is(context.DeadlineExceeded), code: exitDeadline, hint: (*app).deadlineHint},
		{match: is(fs.ErrPermission), code: exitPermission, hint: (*app).permissionHint},
		{match: refused("ADD_DEV", unix.EEXIST), code: exitBusy, hint: (*app).takenHint},
		{match: refused("START_DEV", unix.EEXIST), code: exitFailed, hint: text("The device is started already, or its previous disk is still held open.")},
		{match: refused("START_DEV", unix.EINVAL), code: exitFailed, hint: text("It has no parameters yet (ublk set-params), or the process is not the one that opened its char device, or the block layer refuses its limits (see dmesg).")},
		{match: refused("START_USER_RECOVERY", unix.EINVAL), code: exitFailed, hint: text("The device was added without recovery (ublk add --recovery), or its recovery has begun already (Linux 6.12).")},
		{match: refused("END_USER_RECOVERY", unix.EINVAL), code: exitFailed, hint: text("The device was added without recovery, or the process is not the one that opened its char device.")},
		{match: notStarted("TRY_STOP_DEV"), code: exitFailed, hint: text("The device is not started: there is nothing to stop.")},
		{match: notStarted("UPDATE_SIZE"), code: exitFailed, hint: text("The device is not started: it has no size to change.")},
		{match: notStarted("QUIESCE_DEV"), code: exitFailed, hint: text("The device is not started: it has no server to send away.")},
		{match: refused("ADD_DEV", unix.ENOSPC), code: exitFailed, hint: text("All device numbers are taken.")},
		{match: always, code: exitFailed},
	}
}

func always(*app, error) bool { return true }

func is(target error) func(*app, error) bool {
	return func(_ *app, err error) bool { return errors.Is(err, target) }
}

func as[T error](_ *app, err error) bool {
	var target T
	return errors.As(err, &target)
}

// refused matches a command that the driver answered with errno.
func refused(op string, errno unix.Errno) func(*app, error) bool {
	return func(_ *app, err error) bool {
		var e *ctrl.Error
		return errors.As(err, &e) && e.Op == op && errors.Is(e, errno)
	}
}

// notStarted matches a command that needs a block device where there is none.
func notStarted(op string) func(*app, error) bool {
	return func(_ *app, err error) bool {
		var e *ctrl.Error
		return errors.As(err, &e) && e.Op == op && errors.Is(e, ctrl.ErrNotStarted)
	}
}

func text(hint string) func(*app, error) string { return func(*app, error) string { return hint } }

func isRingRefused(_ *app, err error) bool {
	var e *os.SyscallError
	return errors.As(err, &e) && e.Syscall == "io_uring_setup"
}

// isStarted is the driver's EACCES to parameters of a started device, as
// opposed to the one for a node that the caller may not use.
func isStarted(a *app, err error) bool {
	var e *ctrl.Error
	if !errors.As(err, &e) || e.Op != "SET_PARAMS" || !errors.Is(e, unix.EACCES) {
		return false
	}
	_, diskErr := a.fs.Disk(e.Dev)
	return a.euid == 0 || diskErr == nil
}

// explain returns the exit code of an error and its hint, "" if there is none.
func (a *app) explain(err error) (code int, hint string) {
	var reported reportedError
	switch {
	case err == nil:
		return exitDone, ""
	case errors.As(err, &reported):
		return reported.code, ""
	case a.caught() != 0 && errors.Is(err, context.Canceled):
		return 128 + int(a.caught()), ""
	}
	for _, r := range rules() {
		if !r.match(a, err) {
			continue
		}
		code = r.code
		if r.hint != nil {
			hint = r.hint(a, err)
		}
		break
	}
	var h hintError
	if errors.As(err, &h) {
		hint = h.hint
	}
	return code, hint
}

// report prints an error with its hint and returns its exit code.
func (a *app) report(err error) int {
	code, hint := a.explain(err)
	var reported reportedError
	if err == nil || errors.As(err, &reported) {
		return code
	}
	prefix := "ublk: "
	var control controlError
	if !errors.As(err, &control) && a.name != "" {
		prefix += a.name + ": "
	}
	fmt.Fprintf(a.stderr, "%s%s\n", prefix, a.describe(err))
	for line := range strings.Lines(hint) {
		fmt.Fprintf(a.stderr, "  %s\n", table.Escape(strings.TrimSuffix(line, "\n")))
	}
	return code
}

// describe is the text of an error without the words of package context, which
// are for programmers, and with nothing in it that a terminal obeys.
func (a *app) describe(err error) string {
	if a.caught() != 0 && errors.Is(err, context.Canceled) && !errors.Is(err, server.ErrLeft) {
		return "interrupted"
	}
	lines := strings.Split(plainError(err), "\n")
	for i, line := range lines {
		lines[i] = table.Escape(line)
	}
	return strings.Join(lines, "\n")
}

func plainError(err error) string {
	return strings.NewReplacer("context deadline exceeded", "no answer in time", "context canceled", "given up").Replace(err.Error())
}

// inUseError is a device that somebody uses. It matches ctrl.ErrBusy.
type inUseError struct {
	id      int
	users   []sysfs.User
	partial bool // there may be more users than can be seen
}

func (e *inUseError) Is(target error) bool { return target == ctrl.ErrBusy }

func (e *inUseError) Error() string {
	if len(e.users) == 0 {
		return fmt.Sprintf("device %d: in use, by whom cannot be seen", e.id)
	}
	lines := []string{fmt.Sprintf("device %d: in use", e.id)}
	for _, u := range e.users {
		lines = append(lines, "  "+u.String())
	}
	return strings.Join(lines, "\n")
}
