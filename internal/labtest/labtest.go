// Package labtest is what tests need that run against the real driver, in the
// lab or on a machine that has it.
package labtest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
)

// Require is a client of the driver. Without a driver the test is skipped, and
// fails where UBLK_LAB says that there must be one.
func Require(t testing.TB) *ctrl.Client {
	t.Helper()
	c, err := ctrl.Open()
	if err != nil {
		if os.Getenv("UBLK_LAB") == "" && (errors.Is(err, ctrl.ErrNoDriver) || errors.Is(err, fs.ErrPermission)) {
			t.Skipf("needs the ublk driver: %v (run in the lab: make test)", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// Program is the program to test, $UBLK_BIN. Tests with it change the machine and
// every device of it, so that outside the lab they are skipped.
func Program(t testing.TB) string {
	t.Helper()
	if os.Getenv("UBLK_LAB") == "" {
		t.Skip("changes the machine and every ublk device: for the lab only (make test)")
	}
	path := os.Getenv("UBLK_BIN")
	if path == "" {
		t.Fatal("UBLK_BIN does not name the program to test")
	}
	return path
}

// Begin makes sure of program and driver, and deletes what devices a test leaves.
func Begin(t testing.TB) *ctrl.Client {
	t.Helper()
	program := Program(t)
	c := Require(t)
	t.Cleanup(func() { within(t, 5*time.Minute, program, "del", "--all", "--force", "--timeout", "20") })
	return c
}

// Times is how often something is done: n, or long in the long run.
func Times(n, long int) int {
	if os.Getenv("UBLK_LONG") != "" {
		return long
	}
	return n
}

// RequireFeature skips a test on a kernel without the feature.
func RequireFeature(t testing.TB, c *ctrl.Client, flag uint64) {
	t.Helper()
	have, err := c.Features(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := have.Require(flag); err != nil {
		t.Skip(err)
	}
}

// Run runs a command that must succeed within a minute and returns its output.
func Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	return within(t, time.Minute, name, args...)
}

func within(t testing.TB, limit time.Duration, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), limit) // also in clean-ups
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Freeze stops a process by SIGSTOP and returns when the last of its threads has
// stopped: until then one of them can still answer a request. The process goes
// on at the end of the test, if it is there.
func Freeze(t testing.TB, pid int) {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Kill(pid, unix.SIGCONT) })
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) { // the kernel tells a parent alone
		if stopped(pid) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d does not stop", pid)
		}
	}
}

// stopped reports whether every thread of a process is stopped by a signal.
func stopped(pid int) bool {
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(stats) == 0 {
		return false
	}
	for _, path := range stats {
		text, _ := os.ReadFile(path)
		_, rest, _ := strings.Cut(string(text), ") ") // behind the name
		if !strings.HasPrefix(rest, "T") {
			return false
		}
	}
	return true
}
