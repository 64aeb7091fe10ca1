package rundir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxHolder is how much of a lock file is read and written, in bytes.
const maxHolder = 256

// Lock is an exclusive lock among processes, and among the callers in one
// process. It ends with Unlock or with the process, however that ends; it is
// not inherited by programs that the process starts.
type Lock struct {
	file *os.File
}

// HeldError is the error for a lock that somebody else holds. It wraps the
// error of the context that ended the wait.
type HeldError struct {
	Path    string // of the lock file
	PID     int    // of the holder, 0 if that cannot be told
	Command string // of the holder, its arguments joined by spaces
	Err     error
}

// Error says who to wait for.
func (e *HeldError) Error() string {
	holder := "another process"
	if e.PID != 0 {
		holder = fmt.Sprintf("pid %d (%q)", e.PID, e.Command)
	}
	return fmt.Sprintf("%s is held by %s: wait for it or end it: %v", e.Path, holder, e.Err)
}

// Unwrap returns why the wait ended.
func (e *HeldError) Unwrap() error { return e.Err }

// Lock takes the lock of a device, which orders all that changes the device as a
// whole: add, recover, watch, upgrade, del, resize. It waits until ctx ends; the
// error is then a *HeldError. Taking a lock twice waits for oneself.
func (r Root) Lock(ctx context.Context, id int) (*Lock, error) {
	return r.lock(ctx, strconv.Itoa(id))
}

// TryLock is Lock without waiting.
func (r Root) TryLock(id int) (*Lock, error) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	return r.Lock(ended, id)
}

// ClaimName makes sure that no device has this name and that nobody else gives
// it to one before Unlock. Call it before the device is added, and Unlock once
// WriteConfig has stored the name or the attempt is over: a claim is a lock, so
// nothing remains of a process that died in between. The error is fs.ErrExist
// if the name is taken (Lookup tells by which device); waiting is as with Lock.
func (r Root) ClaimName(ctx context.Context, name string) (*Lock, error) {
	if err := ValidName(name); err != nil {
		return nil, err
	}
	lock, err := r.lock(ctx, "names")
	if err != nil {
		return nil, err
	}
	id, err := r.Lookup(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return lock, nil
	case err == nil:
		err = fmt.Errorf("the name %q is that of device %d (%s): choose another, or delete that device: %w",
			name, id, r.Dir(id).Path, fs.ErrExist)
	}
	return nil, errors.Join(err, lock.Unlock())
}

// Unlock gives the lock to the next one and leaves no file behind.
func (l *Lock) Unlock() error {
	var removed error
	if l.current() {
		removed = os.Remove(l.file.Name())
	}
	// Closing alone is not enough: a child between fork and exec has the file open.
	return errors.Join(removed, flock(l.file, unix.LOCK_UN), l.file.Close())
}

func (r Root) lock(ctx context.Context, name string) (*Lock, error) {
	if err := r.create(); err != nil {
		return nil, err
	}
	path := filepath.Join(r.Path, name+".lock")
	lock, err := acquire(context.WithoutCancel(ctx), path, unix.LOCK_EX|unix.LOCK_NB)
	if !errors.Is(err, unix.EWOULDBLOCK) {
		return lock, err
	}
	if ctx.Err() != nil {
		return nil, heldError(path, ctx.Err())
	}
	// Nothing interrupts a waiting flock. A goroutine that is not waited for any
	// longer gives back what it gets, or ends with the process.
	type result struct {
		lock *Lock
		err  error
	}
	acquired := make(chan result)
	go func() {
		lock, err := acquire(ctx, path, unix.LOCK_EX)
		select {
		case acquired <- result{lock, err}:
		case <-ctx.Done():
			if err == nil {
				lock.Unlock()
			}
		}
	}()
	select {
	case got := <-acquired:
		if got.err == nil || ctx.Err() == nil {
			return got.lock, got.err
		}
	case <-ctx.Done():
	}
	return nil, heldError(path, ctx.Err())
}

// acquire locks the file that path names. The holder before removed the one that
// was waited for, so a lock counts only if the file still has the name. No new
// file is made for a ctx that has ended.
func acquire(ctx context.Context, path string, how int) (*Lock, error) {
	for ctx.Err() == nil {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, fmt.Errorf("lock: %w", err)
		}
		if err := flock(f, how); err != nil {
			f.Close()
			return nil, err
		}
		l := &Lock{f}
		if l.current() {
			l.sign()
			return l, nil
		}
		f.Close()
	}
	return nil, ctx.Err()
}

// current tells whether the locked file is the one that others will find.
func (l *Lock) current() bool {
	locked, err := l.file.Stat()
	if err != nil {
		return false
	}
	named, err := os.Lstat(l.file.Name())
	return err == nil && os.SameFile(locked, named)
}

// sign writes who holds the lock. It only helps the reader of an error, so a
// full disk must not keep anybody from, say, deleting a device.
func (l *Lock) sign() {
	text := fmt.Sprintf("%d %s", os.Getpid(), strings.Join(os.Args, " "))
	if l.file.Truncate(0) == nil {
		l.file.WriteAt([]byte(text[:min(len(text), maxHolder)]), 0)
	}
}

func heldError(path string, cause error) error {
	held := &HeldError{Path: path, Err: cause}
	f, err := os.OpenFile(path, unix.O_NOFOLLOW, 0)
	if err != nil {
		return held
	}
	defer f.Close()
	text, _ := io.ReadAll(io.LimitReader(f, maxHolder))
	pid, command, _ := strings.Cut(string(text), " ")
	if n, err := strconv.ParseUint(pid, 10, 31); err == nil {
		held.PID, held.Command = int(n), command
	}
	return held
}

// flock is flock(2), again after a signal.
func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EINTR) {
			return &fs.PathError{Op: "flock", Path: f.Name(), Err: err}
		}
	}
}
