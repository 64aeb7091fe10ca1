package rundir

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// NewLog makes a log for a server whose device has no number yet. KeepLog moves
// it to where it belongs; a caller whose server did not get that far removes it.
func (r Root) NewLog() (*os.File, error) {
	if err := r.create(); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(r.Path, ".log-")
	if err != nil {
		return nil, err
	}
	// Like a log that is opened again later, so that two servers never overwrite.
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETFL, unix.O_APPEND); err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	return f, nil
}

// KeepLog makes the file at path, from NewLog, the log of the device. Create
// comes first.
func (d Dir) KeepLog(path string) error { return os.Rename(path, d.Log()) }

// OpenLog opens the log of a device that had servers before, to append to it.
func (d Dir) OpenLog() (*os.File, error) {
	if err := d.Create(); err != nil {
		return nil, err
	}
	return os.OpenFile(filepath.Clean(d.Log()), os.O_RDWR|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
}
