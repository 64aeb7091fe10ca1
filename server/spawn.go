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

// Spawn starts this executable as a serving process that outlives the caller
// and returns when the device is LIVE, or with the process's own error. When ctx
// ends first the process is told to stop, which undoes what it has done, and
// waited for.
func Spawn(ctx context.Context, job Job) (*Started, error) {
	log, err := openLog(job)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	if job.Action == ActionAdd {
		job.Log = log.Name()
		defer os.Remove(job.Log) // where the device did not come to be
	}
	logStart, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	reports, proc, err := launch(job, log)
	if err != nil {
		return nil, err
	}
	defer reports.Close()
	stop := context.AfterFunc(ctx, func() { _ = proc.Signal(syscall.SIGTERM) })
	started, err := readReport(reports)
	if err != nil {
		err = explainDeath(err, proc, log, logStart)
	}
	if !stop() && err != nil {
		err = errors.Join(ctx.Err(), err)
	}
	if err != nil {
		return nil, err
	}
	return started, proc.Release()
}

func openLog(job Job) (*os.File, error) {
	root := rundir.Default()
	if job.Action == ActionAdd {
		return root.NewLog()
	}
	return root.Dir(job.ID).OpenLog()
}

// launch starts the process with the properties that it can only be born with:
// PR_SET_IO_FLUSHER, inherited by every thread of its runtime, a session and a
// mount namespace of its own. Privileges that are missing become warnings.
func launch(job Job, log *os.File) (*os.File, *os.Process, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer w.Close()
	in, err := jobFile(job)
	if err != nil {
		return nil, nil, errors.Join(err, r.Close())
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_IO_FLUSHER, 1, 0, 0, 0); err == nil {
		defer func() { _ = unix.Prctl(unix.PR_SET_IO_FLUSHER, 0, 0, 0, 0) }()
	}
	// Cloneflags, not Unshareflags: package syscall makes the latter's mounts
	// private, and a private copy pins every file system that is mounted now.
	for _, flags := range []uintptr{unix.CLONE_NEWNS, 0} {
		cmd := exec.Command("/proc/self/exe", JobCommand)
		cmd.Args[0] = "ublk"
		cmd.Dir = "/"
		cmd.Stderr = log
		cmd.ExtraFiles = []*os.File{in, w}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: flags}
		if err = cmd.Start(); err == nil {
			return r, cmd.Process, in.Close()
		}
		if flags == 0 || !errors.Is(err, unix.EPERM) {
			break
		}
	}
	return nil, nil, errors.Join(fmt.Errorf("serving process: %w", err), in.Close(), r.Close())
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

// explainDeath waits for a process that failed and, if it died without a
// report, adds how, and the end of what it wrote: the text of its panic.
func explainDeath(err error, proc *os.Process, log *os.File, from int64) error {
	state, werr := proc.Wait()
	if werr != nil || !errors.Is(err, io.EOF) {
		return err
	}
	text, _ := io.ReadAll(io.NewSectionReader(log, from, 64<<10))
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
	_ = unix.Unshare(unix.CLONE_NEWNS)
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
