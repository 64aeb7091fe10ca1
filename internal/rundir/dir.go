package rundir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// keptStats is how many pages of dead servers a device keeps.
const keptStats = 3

// Dir is the folder of one device. Whoever changes it holds Root.Lock of the
// device or is its server.
type Dir struct {
	Path string
	ID   int
}

// Log is the path of the server's log.
func (d Dir) Log() string { return filepath.Join(d.Path, "log") }

// Stats is the path of the statistics page of the running server.
func (d Dir) Stats() string { return filepath.Join(d.Path, "stats") }

// Socket is the path of the server's control socket. The kernel takes at most
// 107 bytes of it.
func (d Dir) Socket() string { return filepath.Join(d.Path, "ctl") }

// Config is the path of the file that ReadConfig reads.
func (d Dir) Config() string { return filepath.Join(d.Path, "config") }

// Create makes the folder, and the root around it. One that is there already is
// kept with all that it holds: for a new device whose id was used before,
// Remove it first.
func (d Dir) Create() error {
	root := Root{filepath.Dir(d.Path)}
	if err := root.create(); err != nil {
		return err
	}
	return makeDir(d.Path, 0o700)
}

// Remove deletes the folder and all that it holds; it need not be there. A
// symbolic link in its place is removed, not followed.
func (d Dir) Remove() error {
	if err := os.RemoveAll(d.Path); err != nil {
		return fmt.Errorf("state folder of device %d: %w", d.ID, err)
	}
	return nil
}

// RotateStats keeps the page of the dead server pid as stats.PID, out of the way
// of the page of the next one, and deletes all but the last three kept pages.
// Without a page there is nothing to do.
func (d Dir) RotateStats(pid int) error {
	if pid <= 0 {
		return fmt.Errorf("statistics page %s: %d is not the pid of a server", d.Stats(), pid)
	}
	kept, err := d.keptPages()
	if err != nil {
		return err
	}
	// The time of a page is that of its rotation: a page written through a
	// mapping has no other of use. The clock may have been set back since.
	now := time.Now()
	if len(kept) > 0 && !now.After(kept[0].rotated) {
		now = kept[0].rotated.Add(time.Nanosecond)
	}
	if err := stamp(d.Stats(), now); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if err := os.Rename(d.Stats(), fmt.Sprintf("%s.%d", d.Stats(), pid)); err != nil {
		return err
	}
	if kept, err = d.keptPages(); err != nil {
		return err
	}
	for _, old := range kept[min(keptStats, len(kept)):] {
		if err := os.Remove(old.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// OldStats returns the paths of the pages that RotateStats kept, that of the
// last server first.
func (d Dir) OldStats() ([]string, error) {
	kept, err := d.keptPages()
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, page := range kept {
		paths = append(paths, page.path)
	}
	return paths, nil
}

type keptPage struct {
	path    string
	rotated time.Time
}

// keptPages finds the pages of dead servers, newest first.
func (d Dir) keptPages() ([]keptPage, error) {
	entries, err := os.ReadDir(d.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("state folder of device %d: %w", d.ID, err)
	}
	var kept []keptPage
	for _, entry := range entries {
		pid, found := strings.CutPrefix(entry.Name(), "stats.")
		if _, err := strconv.ParseUint(pid, 10, 31); !found || err != nil || !entry.Type().IsRegular() {
			continue
		}
		// It may be gone: the device is being deleted.
		if info, err := entry.Info(); err == nil {
			kept = append(kept, keptPage{filepath.Join(d.Path, entry.Name()), info.ModTime()})
		}
	}
	slices.SortFunc(kept, func(a, b keptPage) int { return b.rotated.Compare(a.rotated) })
	return kept, nil
}

// stamp sets the modification time of a file, or of a link rather than what it leads to.
func stamp(path string, t time.Time) error {
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return &fs.PathError{Op: "utimensat", Path: path, Err: err}
	}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "utimensat", Path: path, Err: err}
	}
	return nil
}

// makeDir makes one folder, whatever the umask, or accepts the one that is there.
func makeDir(path string, mode fs.FileMode) error {
	made := true
	if err := os.Mkdir(path, mode); errors.Is(err, fs.ErrExist) {
		made = false
	} else if err != nil {
		return fmt.Errorf("state folder: %w (UBLK_RUNDIR can name another place)", err)
	}
	dir, err := openDir(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	if made {
		return dir.Chmod(mode)
	}
	return nil
}

// openDir opens a folder after making sure that it is one, is ours, and that not
// everybody can plant files in it: an error of that kind is ErrForeign.
func openDir(path string) (*os.File, error) {
	dir, err := os.OpenFile(path, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("state folder %s is a file or a symbolic link: remove it: %w", path, ErrForeign)
	}
	if err != nil {
		return nil, fmt.Errorf("state folder: %w", err)
	}
	info, err := dir.Stat()
	if err == nil {
		err = checkOwner(path, info)
	}
	if err != nil {
		dir.Close()
		return nil, fmt.Errorf("state folder %w", err)
	}
	return dir, nil
}

// checkOwner refuses what somebody else may have written.
func checkOwner(path string, info fs.FileInfo) error {
	owner := info.Sys().(*syscall.Stat_t).Uid
	if user := os.Geteuid(); int(owner) != user {
		return fmt.Errorf("%s belongs to user %d, not to user %d who runs this: run it as its owner, or remove it: %w",
			path, owner, user, ErrForeign)
	}
	if info.Mode()&0o002 != 0 {
		return fmt.Errorf("%s can be written by everybody: remove it, or, if what it holds can be trusted, chmod o-w it: %w",
			path, ErrForeign)
	}
	return nil
}
