package rundir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// NewLog opens a log for a server whose device has no number yet: a file
// without a name, gone with its last descriptor unless KeepLog names it.
func (r Root) NewLog() (*os.File, error) {
	if err := r.create(); err != nil {
		return nil, err
	}
	return os.OpenFile(r.Path, unix.O_TMPFILE|os.O_RDWR|os.O_APPEND, 0o600)
}

// KeepLog makes f, from NewLog, the log of the device. Create comes first.
func (d Dir) KeepLog(f *os.File) error {
	if err := os.Remove(d.Log()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.AT_FDCWD, d.Log(), unix.AT_SYMLINK_FOLLOW)
	if err != nil {
		return &os.LinkError{Op: "link", Old: f.Name(), New: d.Log(), Err: err}
	}
	return nil
}

// OpenLog opens the log of a device that had servers before, to append to it.
func (d Dir) OpenLog() (*os.File, error) {
	if err := d.Create(); err != nil {
		return nil, err
	}
	return os.OpenFile(filepath.Clean(d.Log()), os.O_RDWR|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
}
