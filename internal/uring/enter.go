package uring

import (
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"ublk/internal/uapi"
)

// Flush submits every pending entry without waiting for completions. It loops
// over short submits and signals; EBUSY and EAGAIN mean that completions must
// be read first and are returned as they are.
func (r *Ring) Flush() error {
	for n := r.Pending(); n > 0; n = r.Pending() {
		if errno := r.enter(n, 0, 0); errno != 0 && errno != unix.EINTR {
			return os.NewSyscallError("io_uring_enter", errno)
		}
	}
	return nil
}

// Wait submits every pending entry and waits until a completion can be read.
// It enters the Go scheduler as any blocking system call does. A return
// without completions is legal (signal, short submit): look, and call again.
func (r *Ring) Wait() error { return waitError(r.enter(r.Pending(), 1, uapi.EnterGetEvents)) }

// WaitRaw is Wait behind the scheduler's back: the thread keeps its P while it
// sleeps. It costs less than Wait (the runtime's monitor never retakes the P)
// but nothing else may run on that P, and a stop-the-world waits for its end.
// So call it only with a timeout in flight on the ring that bounds the sleep,
// and call an ordinary function after every return.
func (r *Ring) WaitRaw() error { return waitError(r.enterRaw(r.Pending(), 1, uapi.EnterGetEvents)) }

// Poll submits every pending entry and runs deferred completions, sleeping
// never. It is a raw call: short by construction.
func (r *Ring) Poll() error { return waitError(r.enterRaw(r.Pending(), 0, uapi.EnterGetEvents)) }

// waitError drops what is no error of a wait: a signal, and a CQ that must be
// read before more can be submitted (the entries stay pending).
func waitError(errno unix.Errno) error {
	switch errno {
	case 0, unix.EINTR, unix.EAGAIN, unix.EBUSY:
		return nil
	}
	return os.NewSyscallError("io_uring_enter", errno)
}

func (r *Ring) enter(submit, wait uint32, flags uintptr) unix.Errno {
	atomic.StoreUint32(r.kSQTail, r.sqTail)
	_, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, r.enterFD, uintptr(submit), uintptr(wait), flags|r.enterFlags, 0, 0)
	return errno
}

func (r *Ring) enterRaw(submit, wait uint32, flags uintptr) unix.Errno {
	atomic.StoreUint32(r.kSQTail, r.sqTail)
	_, _, errno := unix.RawSyscall6(unix.SYS_IO_URING_ENTER, r.enterFD, uintptr(submit), uintptr(wait), flags|r.enterFlags, 0, 0)
	return errno
}
