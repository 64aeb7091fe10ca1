package watch

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A device may be built on another one: its backing file lies on a file system
// of that device, or is that device. While the lower one waits for a server, a
// look at the file hangs for ever. So what is below a path is found out without
// touching any file system that is on a ublk device: mount tables and /sys tell.

// stack finds what devices are built on.
type stack struct {
	root   string // of /proc, /sys and /dev: "/" except in tests
	mounts []mountPoint
}

type mountPoint struct {
	dev    string // major:minor
	point  string
	source string
}

// newStack reads the mount table of this process.
func newStack(root string) (*stack, error) {
	text, err := os.ReadFile(filepath.Join(root, "proc/self/mountinfo"))
	if err != nil {
		return nil, err
	}
	return &stack{root: root, mounts: parseMounts(string(text))}, nil
}

// parseMounts reads lines as proc_pid_mountinfo(5) describes them.
func parseMounts(text string) []mountPoint {
	var mounts []mountPoint
	for line := range strings.Lines(text) {
		before, after, _ := strings.Cut(line, " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if len(left) >= 5 && len(right) >= 2 {
			mounts = append(mounts, mountPoint{dev: left[2], point: unescape(left[4]), source: unescape(right[1])})
		}
	}
	return mounts
}

// unescape undoes \040 and its like.
func unescape(s string) string {
	for _, octal := range []string{"040", "011", "012", "134"} {
		n, _ := strconv.ParseUint(octal, 8, 8)
		s = strings.ReplaceAll(s, `\`+octal, string(byte(n)))
	}
	return s
}

// mountOf returns the mount that shows at a path: of those above it the longest,
// and of several at one place the last.
func (s *stack) mountOf(path string) (m mountPoint) {
	for _, candidate := range s.mounts {
		if within(path, candidate.point) && len(candidate.point) >= len(m.point) {
			m = candidate
		}
	}
	return m
}

func within(path, folder string) bool {
	return path == folder || folder == "/" || strings.HasPrefix(path, folder+"/")
}

// maxLinks bounds symbolic links and layers of devices.
const maxLinks = 40

// below lists the ublk devices that a file, or a block device by its path,
// needs, without duplicates. A file that does not exist needs those of the
// folders that do.
func (s *stack) below(path string) ([]int, error) {
	var ids []int
	err := s.walk(filepath.Clean(path), &ids, 0)
	slices.Sort(ids)
	return slices.Compact(ids), err
}

// walk goes down a path element by element. As soon as one lies on a ublk device
// the rest is not looked at: that device has to be there first in any case.
func (s *stack) walk(path string, ids *[]int, depth int) error {
	if depth > maxLinks {
		return fmt.Errorf("%s: too many symbolic links or devices on devices", path)
	}
	rest, at := strings.TrimPrefix(path, "/"), "/"
	for {
		if found, err := s.mounted(s.mountOf(at), ids, depth); found || err != nil {
			return err
		}
		if rest == "" {
			return s.special(at, ids, depth)
		}
		element, after, _ := strings.Cut(rest, "/")
		next := filepath.Join(at, element)
		// What is mounted on it hides what it is.
		if found, err := s.mounted(s.mountOf(next), ids, depth); found || err != nil {
			return err
		}
		link, err := os.Readlink(filepath.Join(s.root, next))
		switch {
		case err == nil:
			if !filepath.IsAbs(link) {
				link = filepath.Join(at, link)
			}
			return s.walk(filepath.Join(link, after), ids, depth+1)
		case errors.Is(err, fs.ErrNotExist):
			return nil
		}
		at, rest = next, after
	}
}

// mounted adds the ublk devices that a file system is on. Some show a device
// number of their own; then the source names the disk.
func (s *stack) mounted(m mountPoint, ids *[]int, depth int) (bool, error) {
	before := len(*ids)
	var err error
	switch {
	case strings.HasPrefix(m.source, "/dev/") && strings.HasPrefix(m.dev, "0:"):
		err = s.walk(m.source, ids, depth+1)
	case m.dev != "" && !strings.HasPrefix(m.dev, "0:"):
		err = s.device(m.dev, ids, depth)
	}
	return len(*ids) > before, err
}

// special adds what is below the block device that a path is the node of.
func (s *stack) special(path string, ids *[]int, depth int) error {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, filepath.Join(s.root, path), unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &st)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return nil // whoever opens it will say what is wrong with it
	}
	return s.device(fmt.Sprintf("%d:%d", st.Rdev_major, st.Rdev_minor), ids, depth)
}

// device adds what is below a block device: itself if it is a ublk disk or a
// partition of one, else what device mapper, md and loop devices are built on.
func (s *stack) device(dev string, ids *[]int, depth int) error {
	if depth > maxLinks {
		return fmt.Errorf("block device %s: too many devices on devices", dev)
	}
	folder, err := filepath.EvalSymlinks(filepath.Join(s.root, "sys/dev/block", dev))
	if err != nil {
		return nil // gone
	}
	if _, err := os.Stat(filepath.Join(folder, "partition")); err == nil {
		folder = filepath.Dir(folder)
	}
	if id, ok := diskID(filepath.Base(folder)); ok {
		*ids = append(*ids, id)
		return nil
	}
	if file, err := os.ReadFile(filepath.Join(folder, "loop/backing_file")); err == nil {
		return s.walk(strings.TrimSpace(string(file)), ids, depth+1)
	}
	slaves, _ := os.ReadDir(filepath.Join(folder, "slaves"))
	for _, slave := range slaves {
		lower, err := os.ReadFile(filepath.Join(folder, "slaves", slave.Name(), "dev"))
		if err != nil {
			continue
		}
		if err := s.device(strings.TrimSpace(string(lower)), ids, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// diskID returns N of ublkbN.
func diskID(name string) (int, bool) {
	digits, ok := strings.CutPrefix(name, "ublkb")
	id, err := strconv.ParseUint(digits, 10, 31)
	return int(id), ok && err == nil
}
