package server

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"
)

// harden makes this process fit to stand behind a disk: what its memory
// reclaim, a full machine or an unlucky umount could do to it would hang the
// disk. What it may not do becomes a warning. See also launch. A process in the
// background also leaves the terminal and the control group of whoever started
// it.
func harden(job Job) (warnings []string) {
	type step struct {
		what string
		do   func() error
	}
	steps := []step{
		// First of all: as a slave the namespace follows every umount outside and
		// pins no file system. (The process has only its start-up threads yet, and
		// they share one namespace.)
		{"mount namespace", slaveMounts},
		{"IO_FLUSHER", checkIOFlusher},
		{"oom_score_adj", func() error { return os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0) }},
		{"file descriptor limit", raiseFileLimit},
		{"process name", func() error { return os.WriteFile("/proc/self/comm", []byte("ublk"), 0) }}, // not "exe", after the link that was run
		{"working directory", func() error { return os.Chdir("/") }},
	}
	if job.Action == ActionStandby {
		steps = append(steps, step{"program", lockProgram})
	}
	if !job.Foreground {
		steps = append(steps, step{"terminal", leaveTerminal}, step{"scope", enterScope})
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			warnings = append(warnings, fmt.Sprintf("%s: %v", s.what, err))
		}
	}
	return warnings
}

// ownNamespace is the flag that gives a serving process mounts of its own, or 0
// where the root is a private mount: a copy of that never learns of an umount
// outside, and would pin what is mounted now.
func ownNamespace() uintptr {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return 0
	}
	flag := uintptr(0)
	for line := range strings.Lines(string(mounts)) { // the last mount on / is the one that shows
		if f := strings.Fields(line); len(f) > 6 && f[4] == "/" {
			flag = 0
			if strings.HasPrefix(f[6], "shared:") {
				flag = unix.CLONE_NEWNS
			}
		}
	}
	return flag
}

// slaveMounts acts only in a namespace of our own: never change the caller's.
func slaveMounts() error {
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return err
	}
	parent, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", os.Getppid()))
	if err != nil || own == parent {
		return nil
	}
	return os.NewSyscallError("mount", unix.Mount("none", "/", "", unix.MS_REC|unix.MS_SLAVE, ""))
}

// leaveTerminal gives up the controlling terminal, with all signals that come
// from it.
func leaveTerminal() error {
	tty, err := unix.Open("/dev/tty", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil // there is none
	}
	defer unix.Close(tty)
	return os.NewSyscallError("TIOCNOTTY", unix.IoctlSetInt(tty, unix.TIOCNOTTY, 0))
}

// checkIOFlusher reads back what the parent set: the flag is a thread's, and
// every thread of the runtime must have it from birth.
func checkIOFlusher() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	set, err := unix.PrctlRetInt(unix.PR_GET_IO_FLUSHER, 0, 0, 0, 0)
	if err != nil {
		return os.NewSyscallError("prctl", err)
	}
	if set != 1 {
		return errors.New("not set: memory reclaim may wait for this very device")
	}
	return nil
}

func raiseFileLimit() error {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return err
	}
	l.Cur = l.Max
	return unix.Setrlimit(unix.RLIMIT_NOFILE, &l)
}

// lockProgram keeps the whole program in memory, for a server that stands by: it
// may lie on a disk that waits for this very process.
func lockProgram() error {
	return program(func(start, size uintptr, _ bool) error { return call("mlock", unix.SYS_MLOCK, start, size, 0) })
}

// settle gives back what only starting has used, and keeps what of the program
// is used from now on in memory, as lockProgram does with all of it.
func settle() error {
	debug.FreeOSMemory()
	return program(func(start, size uintptr, writable bool) error {
		if !writable {
			if err := call("madvise", unix.SYS_MADVISE, start, size, unix.MADV_DONTNEED); err != nil {
				return err
			}
		}
		return call("mlock2", unix.SYS_MLOCK2, start, size, unix.MLOCK_ONFAULT)
	})
}

func call(name string, trap, start, size, arg uintptr) error {
	if _, _, errno := unix.Syscall(trap, start, size, arg); errno != 0 {
		return os.NewSyscallError(name, errno)
	}
	return nil
}

// program does something with each mapping of the program's file. Ordinary users
// need their small limit of locked memory for buffers.
func program(do func(start, size uintptr, writable bool) error) error {
	if os.Geteuid() != 0 {
		return nil
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return err
	}
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(maps)) {
		var start, end uintptr
		var may string
		if !strings.HasSuffix(line, " "+exe+"\n") {
			continue
		}
		if _, err := fmt.Sscanf(line, "%x-%x %s", &start, &end, &may); err != nil {
			return err
		}
		if err := do(start, end-start, strings.Contains(may, "w")); err != nil {
			return err
		}
	}
	return nil
}
