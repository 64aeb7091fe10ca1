package cmd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/internal/ctrldev/fake"
	"ublk/internal/rundir"
	"ublk/internal/sysfs"
	"ublk/internal/table"
	"ublk/internal/uapi"
	"ublk/server"
)

func refusal(op string, err error) error { return &ctrl.Error{Op: op, Dev: 0, Err: err} }

func TestExplain(t *testing.T) {
	m := newMachine(t, fake.Options{})
	m.live(4411, uapi.FlagUserRecovery)
	tests := []struct {
		err  error
		code int
		hint string
	}{
		{nil, 0, ""},
		{errors.New("something"), 1, ""},
		{usagef("wrong"), 64, "Try: ublk --help"},
		{hinted(errors.New("x"), "do %s", "y"), 1, "do y"},
		{&table.UnknownColumnError{Name: "X"}, 64, ""},
		{refusal("SET_PARAMS", &ctrl.ParamError{Field: "a", Rule: "b"}), 64, ""},
		{controlError{errNoDriver()}, 6, "not here (a container?)"},
		{refusal("GET_DEV_INFO2", os.NewSyscallError("io_uring_setup", unix.EPERM)), 6, "seccomp"},
		{refusal("GET_DEV_INFO2", os.NewSyscallError("io_uring_setup", unix.ENOSYS)), 6, "CONFIG_IO_URING"},
		{&ctrl.UnsupportedError{Feature: "UBLK_F_BATCH_IO", Since: "7.0"}, 6, "ublk features"},
		{&ctrl.UnsupportedError{Feature: "UBLK_F_ZONED", Since: "6.6"}, 6, "CONFIG_BLK_DEV_ZONED"},
		{refusal("QUIESCE_DEV", unix.EOPNOTSUPP), 6, "without recovery"},
		{refusal("STOP_DEV", ctrl.ErrNoDevice), 4, "Devices: 0"},
		{unknownNameError("x"), 4, "Devices: 0"},
		{noDeviceError(3), 4, "Devices: 0"},
		{refusal("TRY_STOP_DEV", unix.EBUSY), 7, ""},
		{refusal("START_USER_RECOVERY", unix.EBUSY), 7, "process 4411 (server)"},
		{&inUseError{id: 0}, 7, "--force"},
		{&rundir.HeldError{Path: "x", PID: 7, Command: "y", Err: context.DeadlineExceeded}, 7, ""},
		{fmt.Errorf("x: %w", server.ErrLive), 7, "ublk upgrade"},
		{refusal("SET_PARAMS", unix.EACCES), 7, "before START_DEV"},
		{refusal("STOP_DEV", context.DeadlineExceeded), 8, "its server is 4411"},
		{refusal("START_DEV", context.DeadlineExceeded), 8, "has not fetched"},
		{refusal("ADD_DEV", unix.EPERM), 5, "CAP_SYS_ADMIN"},
		{&fs.PathError{Op: "open", Path: "/x", Err: unix.EACCES}, 5, ""},
		{refusal("ADD_DEV", unix.EEXIST), 7, "Device 0 is there already (LIVE, server 4411). Choose another number"},
		{refusal("START_DEV", unix.EEXIST), 1, "started already"},
		{refusal("START_DEV", unix.EINVAL), 1, "no parameters"},
		{refusal("START_USER_RECOVERY", unix.EINVAL), 1, "without recovery"},
		{refusal("TRY_STOP_DEV", ctrl.ErrNotStarted), 1, "not started"},
		{refusal("UPDATE_SIZE", ctrl.ErrNotStarted), 1, "not started"},
		{reportedError{3}, 3, ""},
	}
	m.sync()
	for _, test := range tests {
		t.Run(fmt.Sprint(test.err), func(t *testing.T) {
			code, hint := m.app().explain(test.err)
			if code != test.code || !strings.Contains(hint, test.hint) || test.hint == "" && hint != "" {
				t.Errorf("got %d %q, want %d %q", code, hint, test.code, test.hint)
			}
		})
	}
}

func TestExplainWithoutRoot(t *testing.T) {
	m := newMachine(t, fake.Options{})
	m.euid = 1000
	for _, err := range []error{refusal("STOP_DEV", unix.EPERM), controlError{&fs.PathError{Op: "open", Path: "/dev/ublk-control", Err: unix.EACCES}}} {
		if code, hint := m.app().explain(err); code != 5 || !strings.Contains(hint, "root") {
			t.Errorf("%v: got %d %q", err, code, hint)
		}
	}
}

// TestExitCodes keeps the table of the manual and the codes that are used together.
func TestExitCodes(t *testing.T) {
	listed := map[string]bool{}
	for _, e := range ExitCodes() {
		listed[e.Code] = true
	}
	for _, r := range rules() {
		if !listed[fmt.Sprint(r.code)] {
			t.Errorf("code %d is not in the table", r.code)
		}
	}
	for _, code := range []int{exitDone, exitSome, exitUsage} {
		if !listed[fmt.Sprint(code)] {
			t.Errorf("code %d is not in the table", code)
		}
	}
}

func TestTogether(t *testing.T) {
	tests := []struct {
		codes []int
		want  int
	}{
		{nil, 0}, {[]int{0, 0}, 0}, {[]int{0, 4}, 3}, {[]int{4, 4}, 4}, {[]int{4, 7}, 1}, {[]int{7}, 7},
	}
	for _, test := range tests {
		var reported reportedError
		err := together(test.codes)
		if errors.As(err, &reported); (err == nil) != (test.want == 0) || reported.code != test.want {
			t.Errorf("together(%v) = %v, want %d", test.codes, err, test.want)
		}
	}
}

func TestReportEscapes(t *testing.T) {
	m := newMachine(t, fake.Options{})
	a := m.app()
	var out strings.Builder
	a.stderr, a.name = &out, "add"
	a.report(hinted(errors.New("evil \x1b[31m name"), "more \x1b"))
	if strings.ContainsRune(out.String(), 0x1b) || !strings.HasPrefix(out.String(), "ublk: add: evil ") {
		t.Errorf("%q", out.String())
	}
}

func TestInUseError(t *testing.T) {
	err := &inUseError{id: 3, users: []sysfs.User{{Kind: sysfs.UserOpener, Device: "ublkb3", PID: 9, Command: "cat"}}}
	if want := "device 3: in use\n  pid 9 (cat) has /dev/ublkb3 open"; err.Error() != want || !errors.Is(err, ctrl.ErrBusy) {
		t.Errorf("%q", err.Error())
	}
}

// TestInterruptedLeaves: an interruption is no news, but what it left behind is.
func TestInterruptedLeaves(t *testing.T) {
	a := newMachine(t, fake.Options{}).app()
	a.signals.Store(int32(unix.SIGINT))
	if got := a.describe(context.Canceled); got != "interrupted" {
		t.Errorf("%q", got)
	}
	err := errors.Join(context.Canceled, fmt.Errorf("device 3: %w: no answer", server.ErrLeft))
	if got := a.describe(err); !strings.Contains(got, "device 3: it could not be deleted again") {
		t.Errorf("%q", got)
	}
	if code, _ := a.explain(err); code != 130 {
		t.Errorf("exit code %d", code)
	}
}
