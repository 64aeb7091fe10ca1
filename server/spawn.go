package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ublk/internal/rundir"
)

// JobCommand is the hidden command of the program that calls ServeJob.
const JobCommand = "serve-job"

// Descriptors of a serving process.
const (
	jobFD    = 3 // reads its Job
	reportFD = 4 // writes its report
)

// thisExecutable is what serving processes are started from, whatever has become
// of the file that it was.
const thisExecutable = "/proc/self/exe"

// Spawn starts this executable as a serving process that outlives the caller
// and returns when the device is LIVE, or with the process's own error. When ctx
// ends first the process is told to give up, which undoes what it has done, and
// waited for; a device that is LIVE by then stays, and is returned.
func Spawn(ctx context.Context, job Job) (*Started, error) {
	return SpawnExecutable(ctx, thisExecutable, job)
}

// SpawnExecutable is Spawn with another executable of this program, such as the
// one of an older server.
func SpawnExecutable(ctx context.Context, exe string, job Job) (*Started, error) {
	log, err := openLog(job)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	if job.Action == ActionAdd {
		job.Log = log.Name()
		defer os.Remove(job.Log) // where the device did not come to be
	}
	in, err := jobFile(job)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	c, err := launch(exe, in, log)
	if err != nil {
		return nil, err
	}
	defer c.reports.Close()
	r, err := c.report(ctx)
	if err != nil {
		return nil, err
	}
	return r.Started, c.proc.Release()
}

func openLog(job Job) (*os.File, error) {
	root := rundir.Default()
	if job.Action == ActionAdd {
		return root.NewLog()
	}
	return root.Dir(job.ID).OpenLog()
}

// child is a serving process and the way to hear of it.
type child struct {
	proc     *os.Process
	reports  *os.File
	dec      *json.Decoder // of reports
	log      *os.File      // the caller's
	logStart int64         // where in the log the process began
}

// launch starts the process with the properties that it can only be born with:
// PR_SET_IO_FLUSHER, inherited by every thread of its runtime, a process group
// and a mount namespace of its own. Privileges that are missing become warnings.
//
// It stays in the caller's session, without the terminal (leaveTerminal): with a
// session goes a scheduling group (sched(7), autogroup), and where no control
// group stands above it each wake-up by a client then takes 4 % more CPU.
func launch(exe string, in, log *os.File) (*child, error) {
	start, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer w.Close()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_IO_FLUSHER, 1, 0, 0, 0); err == nil {
		defer func() { _ = unix.Prctl(unix.PR_SET_IO_FLUSHER, 0, 0, 0, 0) }()
	}
	// Cloneflags, not Unshareflags: package syscall makes the latter's mounts
	// private, and a private copy pins every file system that is mounted now.
	for _, flags := range []uintptr{ownNamespace(), 0} {
		cmd := exec.Command(exe, JobCommand)
		cmd.Args[0] = "ublk"
		cmd.Dir = "/"
		cmd.Stderr = log
		cmd.ExtraFiles = []*os.File{in, w}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Cloneflags: flags}
		if err = cmd.Start(); err == nil {
			return &child{proc: cmd.Process, reports: r, dec: json.NewDecoder(r), log: log, logStart: start}, nil
		}
		if flags == 0 || !errors.Is(err, unix.EPERM) {
			break
		}
	}
	return nil, errors.Join(fmt.Errorf("serving process: %w", err), r.Close())
}

// report waits for the process's next report. When ctx ends first the process is
// told to give up, by a signal that means nothing to it once the device is LIVE.
// One that hangs in the kernel cannot, and is left behind.
func (c *child) report(ctx context.Context) (report, error) {
	stop := context.AfterFunc(ctx, func() {
		_ = c.proc.Signal(syscall.SIGHUP)
		_ = c.reports.SetReadDeadline(time.Now().Add(stopGrace))
	})
	r, err := readReport(c.dec)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = fmt.Errorf("serving process %d hangs in the kernel and cannot be stopped", c.proc.Pid)
	case errors.Is(err, io.EOF):
		err = c.explainDeath()
	case err != nil:
		_, _ = c.proc.Wait()
	}
	if !stop() && err != nil {
		err = errors.Join(ctx.Err(), err)
	}
	return r, err
}

// jobFile is an anonymous file with the job in it, positioned at its start.
func jobFile(job Job) (*os.File, error) {
	fd, err := unix.MemfdCreate("ublk-job", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "ublk-job")
	if err := json.NewEncoder(f).Encode(job); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// explainDeath says how a process died that left no report, with the end of what
// it wrote: the text of its panic.
func (c *child) explainDeath() error {
	state, err := c.proc.Wait()
	if err != nil {
		return fmt.Errorf("the serving process ended without a word: %w", err)
	}
	text, _ := io.ReadAll(io.NewSectionReader(c.log, c.logStart, 64<<10))
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) > 12 {
		lines = lines[:12]
	}
	return fmt.Errorf("the serving process died (%s):\n  %s", state, strings.Join(lines, "\n  "))
}

// Foreground turns this process into the serving process: it gives itself what
// Spawn gives a child and executes itself again. It returns only on error.
func Foreground(job Job) error {
	job.Foreground = true
	in, err := jobFile(job)
	if err != nil {
		return err
	}
	runtime.LockOSThread() // the thread that execs is the one that stays
	_ = unix.Prctl(unix.PR_SET_IO_FLUSHER, 1, 0, 0, 0)
	_ = unix.Unshare(int(ownNamespace()))
	if fd := int(in.Fd()); fd == jobFD {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0)
	} else {
		err = unix.Dup3(fd, jobFD, 0)
	}
	if err != nil {
		return os.NewSyscallError("dup3", err)
	}
	return os.NewSyscallError("execve", unix.Exec("/proc/self/exe", []string{"ublk", JobCommand}, os.Environ()))
}

// stopGrace bounds what a serving process does to the driver at its end.
const stopGrace = 30 * time.Second
