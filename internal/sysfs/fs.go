// Package sysfs reads what the kernel shows of ublk devices and of the processes
// around them: sysfs, debugfs, /proc, uevents and pidfds. It changes nothing and
// never opens a device. Everything works for devices of any server.
//
// Errors: a file or process that is not there, or vanished while being read, is
// fs.ErrNotExist; a missing privilege, and a file that lockdown closes, is
// fs.ErrPermission. Methods are safe for concurrent use.
//
// Readers of blk-mq sysfs and debugfs take a lock of the kernel that a wedged
// device can hold forever (blk-mq-debugfs.c, blk-mq-sysfs.c: the elevator lock).
// Who must not block reads them on a goroutine that can be given up.
package sysfs

import (
	"bytes"
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

// FS is a view of one machine's /sys and /proc.
type FS struct {
	root string
	// device returns the device that a path is the node of, following links; it
	// is a field because tests cannot make device nodes.
	device func(path string) (Node, error)
}

// New returns the view below a root, which is "/" except in tests.
func New(root string) *FS { return &FS{root: root, device: statNode} }

// Dev is a device number.
type Dev struct{ Major, Minor uint32 }

func (d Dev) String() string { return fmt.Sprintf("%d:%d", d.Major, d.Minor) }

// Node is what a path leads to: a device node, or (Block and Char false) anything else.
type Node struct {
	Dev         Dev
	Block, Char bool
}

// statNode does not ask a network or FUSE server for anything, since a hung one
// would hang whoever looks through /proc/PID/fd.
func statNode(path string) (Node, error) {
	var stat unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, unix.STATX_TYPE, &stat)
	if err != nil {
		return Node{}, gone(&fs.PathError{Op: "statx", Path: path, Err: err})
	}
	return Node{
		Dev:   Dev{stat.Rdev_major, stat.Rdev_minor},
		Block: stat.Mode&unix.S_IFMT == unix.S_IFBLK,
		Char:  stat.Mode&unix.S_IFMT == unix.S_IFCHR,
	}, nil
}

// DriverLoaded says whether ublk_drv is in this kernel, as a module or built in.
func (f *FS) DriverLoaded() bool {
	_, err := os.Stat(f.path("sys/class/misc/ublk-control"))
	return err == nil
}

// Devices returns the ids of all devices, started or not, in ascending order.
// Without the driver that is fs.ErrNotExist.
func (f *FS) Devices() ([]int, error) {
	names, err := f.list("sys/class/ublk-char")
	if err != nil {
		return nil, err
	}
	ids := []int{}
	for _, name := range names {
		if id, ok := idOf(name, "ublkc"); ok {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// CharDev returns the number of /dev/ublkcN.
func (f *FS) CharDev(id int) (Dev, error) {
	return f.dev("sys/class/ublk-char", charName(id))
}

// UblksMax returns the driver's parameter ublks_max: how many unprivileged devices there may be.
func (f *FS) UblksMax() (int, error) {
	n, err := f.number("sys/module/ublk_drv/parameters/ublks_max")
	return int(n), err
}

// BootID returns the id of this boot of the kernel, in the form of a UUID.
func (f *FS) BootID() (string, error) {
	return f.word("proc/sys/kernel/random/boot_id")
}

func blockName(id int) string { return "ublkb" + strconv.Itoa(id) }
func charName(id int) string  { return "ublkc" + strconv.Itoa(id) }

// idOf returns N of a name made of prefix and N, and nothing else.
func idOf(name, prefix string) (int, bool) {
	digits, ok := strings.CutPrefix(name, prefix)
	id, err := strconv.ParseUint(digits, 10, 31)
	return int(id), ok && err == nil && digits == strconv.FormatUint(id, 10)
}

func (f *FS) path(elements ...string) string {
	return filepath.Join(f.root, filepath.Join(elements...))
}

// read returns a file's whole content.
func (f *FS) read(elements ...string) ([]byte, error) {
	data, err := os.ReadFile(f.path(elements...))
	return data, gone(err)
}

// word returns the content of a file of one line.
func (f *FS) word(elements ...string) (string, error) {
	data, err := f.read(elements...)
	return string(bytes.TrimSpace(data)), err
}

// number returns the content of a file that holds one decimal number.
func (f *FS) number(elements ...string) (uint64, error) {
	word, err := f.word(elements...)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(word, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %q is not a number", f.path(elements...), word)
	}
	return n, nil
}

// dev returns the device number that a sysfs folder's file dev holds.
func (f *FS) dev(elements ...string) (Dev, error) {
	word, err := f.word(append(elements, "dev")...)
	if err != nil {
		return Dev{}, err
	}
	dev, ok := parseDev(word)
	if !ok {
		return Dev{}, fmt.Errorf("%s/dev: %q is not a device number", f.path(elements...), word)
	}
	return dev, nil
}

func parseDev(text string) (Dev, bool) {
	major, minor, _ := strings.Cut(text, ":")
	a, errMajor := strconv.ParseUint(major, 10, 32)
	b, errMinor := strconv.ParseUint(minor, 10, 32)
	return Dev{uint32(a), uint32(b)}, errMajor == nil && errMinor == nil
}

// list returns the sorted names in a folder.
func (f *FS) list(elements ...string) ([]string, error) {
	entries, err := os.ReadDir(f.path(elements...))
	if err != nil {
		return nil, gone(err)
	}
	names := make([]string, len(entries))
	for i, entry := range entries {
		names[i] = entry.Name()
	}
	return names, nil
}

// link returns where a symbolic link points to.
func (f *FS) link(elements ...string) (string, error) {
	target, err := os.Readlink(f.path(elements...))
	return target, gone(err)
}

// exists says whether there is such a path, whatever it is.
func (f *FS) exists(elements ...string) bool {
	_, err := os.Lstat(f.path(elements...))
	return err == nil
}

// gone makes fs.ErrNotExist of the errors that reading from an open file gives
// when its device (ENODEV, ENXIO) or process (ESRCH) has gone.
func gone(err error) error {
	for _, errno := range []error{unix.ENODEV, unix.ENXIO, unix.ESRCH} {
		if errors.Is(err, errno) {
			return fmt.Errorf("%w (%w)", err, fs.ErrNotExist)
		}
	}
	return err
}
