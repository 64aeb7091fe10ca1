package sysfs

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// These tests read the machine that they run on.

func TestOwnProcess(t *testing.T) {
	f := New("/")
	process, err := f.Process(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if process.PPID != os.Getppid() || process.UID != os.Getuid() || !slices.Equal(process.Command, os.Args) {
		t.Errorf("got %+v", process)
	}
	if !strings.HasPrefix(process.Comm, "sysfs") || !strings.ContainsRune("RSD", rune(process.State)) {
		t.Errorf("comm %q, state %c", process.Comm, process.State)
	}
	if process.RSS < 1<<20 || process.Threads < 1 || process.StartTicks == 0 || process.IOFlusher() {
		t.Errorf("got %+v", process)
	}
	if age := time.Since(process.Started); age < 0 || age > time.Hour || process.Uptime > time.Hour {
		t.Errorf("started %v, uptime %v", process.Started, process.Uptime)
	}
	threads, err := f.Threads(os.Getpid())
	if err != nil || len(threads) == 0 || threads[0].TID != os.Getpid() || !strings.HasPrefix(threads[0].Comm, "sysfs") {
		t.Errorf("threads %+v, %v", threads, err)
	}
}

func TestNoSuchProcess(t *testing.T) {
	f := New("/")
	pid := exitedPID(t)
	_, err := f.Process(pid)
	wantNotExist(t, "Process", err)
	_, err = f.Threads(pid)
	wantNotExist(t, "Threads", err)
	_, err = OpenPIDFD(pid)
	wantNotExist(t, "OpenPIDFD", err)
}

// exitedPID returns the pid of a process that was and is no more.
func exitedPID(t *testing.T) int {
	command := exec.Command("true")
	if err := command.Run(); err != nil {
		t.Fatal(err)
	}
	return command.Process.Pid
}

func TestPIDFD(t *testing.T) {
	command := exec.Command("cat")
	input, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	pidfd, err := OpenPIDFD(command.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer pidfd.Close()
	for range 3 { // a context that ended must not end the next wait
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		if err := pidfd.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("wait on a living process: %v", err)
		}
		cancel()
	}
	if pidfd.Exited() {
		t.Error("a living process has exited")
	}
	input.Close()
	if err := pidfd.Wait(t.Context()); err != nil {
		t.Errorf("wait on an ending process: %v", err)
	}
	if !pidfd.Exited() {
		t.Error("an exited process lives")
	}
	if err := command.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := pidfd.Wait(t.Context()); err != nil {
		t.Errorf("wait on a reaped process: %v", err)
	}
	wantNotExist(t, "Signal", pidfd.Signal(unix.SIGTERM))
}

func TestPIDFDSignal(t *testing.T) {
	command := exec.Command("cat")
	if _, err := command.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	pidfd, err := OpenPIDFD(command.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer pidfd.Close()
	if err := pidfd.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := pidfd.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := command.Wait(); !errors.As(err, &exit) || exit.Sys().(interface{ Signal() unix.Signal }).Signal() != unix.SIGTERM {
		t.Errorf("the process ended with %v, not by SIGTERM", err)
	}
}

func TestBootID(t *testing.T) {
	id, err := New("/").BootID()
	if err != nil || len(id) != 36 {
		t.Errorf("%q, %v", id, err)
	}
}

func TestUeventsEnd(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	events, err := Uevents(ctx)
	if err != nil {
		t.Skipf("netlink: %v", err)
	}
	cancel()
	for range events { // closes, or the test times out
	}
}

// Char devices that every machine has stand in for /dev/ublkcN here.
func TestHoldsChar(t *testing.T) {
	file, err := os.Open("/dev/zero")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	f := New("/")
	for dev, want := range map[Dev]bool{{1, 5}: true, {1, 9999}: false} {
		if holds, err := f.holdsChar(os.Getpid(), "ublkc0", dev); err != nil || holds != want {
			t.Errorf("holds %v: %v, %v; want %v", dev, holds, err, want)
		}
	}
}

// TestUnprivileged looks with the eyes of nobody at a machine where process 1 is root's.
func TestUnprivileged(t *testing.T) {
	if process, err := New("/").ProcessStat(1); err != nil || process.UID != 0 {
		t.Skip("process 1 is not root's")
	}
	type result struct {
		partial     bool
		err, holder error
		process     Process
		processErr  error
	}
	results := make(chan result)
	go func() {
		// The thread's identity changes alone, and ends with the goroutine.
		runtime.LockOSThread()
		if os.Getuid() == 0 {
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
				results <- result{err: errno}
				return
			}
		}
		f := tree(t, map[string]string{"sys/block/x": "", "sys/class/ublk-char/ublkc3/dev": "244:3\n", "proc": "-> /proc"})
		var r result
		_, r.partial, r.err = f.Users(3)
		_, _, r.holder = f.CharHolder(3)
		r.process, r.processErr = f.Process(1)
		results <- r
	}()
	r := <-results
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) // lost with the change of identity
	if r.err != nil || !r.partial {
		t.Errorf("users: partial %v, %v", r.partial, r.err)
	}
	if !errors.Is(r.holder, fs.ErrPermission) {
		t.Errorf("char holder: %v, want fs.ErrPermission", r.holder)
	}
	if r.processErr != nil || r.process.UID != 0 || r.process.Comm == "" {
		t.Errorf("process 1: %+v, %v", r.process, r.processErr)
	}
}

func BenchmarkUsers(b *testing.B) {
	f := New("/")
	for b.Loop() {
		if _, _, err := f.Users(3); err != nil {
			b.Fatal(err)
		}
	}
}
