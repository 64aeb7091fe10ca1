package server

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
)

// handoverTime is how long udev may take to give a new node to its user.
const handoverTime = 5 * time.Second

// awaitHandover returns when this user may open the char device of an
// unprivileged device. The kernel makes it root's; a udev rule gives it to the
// user, which shows as a change of its attributes. Without such a rule the
// device is of no use, and only root can delete it.
func awaitHandover(ctx context.Context, id int) error {
	ctx, cancel := context.WithTimeout(ctx, handoverTime)
	defer cancel()
	path := ctrl.CharPath(id)
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return os.NewSyscallError("inotify_init1", err)
	}
	events := os.NewFile(uintptr(fd), "inotify")
	defer events.Close()
	// The folder, for to watch the node itself the user would have to read it.
	if _, err := unix.InotifyAddWatch(fd, filepath.Dir(path), unix.IN_ATTRIB); err != nil {
		return &os.PathError{Op: "inotify_add_watch", Path: filepath.Dir(path), Err: err}
	}
	defer context.AfterFunc(ctx, func() { _ = events.SetReadDeadline(time.Now()) })()
	for {
		denied := unix.Faccessat(unix.AT_FDCWD, path, unix.R_OK|unix.W_OK, unix.AT_EACCESS)
		if denied == nil {
			return nil
		}
		var buffer [4096]byte
		if _, err := events.Read(buffer[:]); err != nil {
			return fmt.Errorf("device %d: no udev rule has given %s to user %d (%w): the device stays until root deletes it", id, path, os.Geteuid(), denied)
		}
	}
}
