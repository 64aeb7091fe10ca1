package sysfs

import (
	"errors"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// procScan looks at every process once: what it has open and what it sees mounted.
type procScan struct {
	fs      *FS
	target  target
	own     string          // the caller's mount namespace, as its link reads
	views   map[string]bool // namespace and root folder of mount tables already read
	mounts  []User
	openers []User
	partial bool
}

func (s *procScan) run() error {
	pids, err := s.fs.pids()
	if err != nil {
		return err
	}
	s.views = map[string]bool{}
	s.own, _ = s.fs.link("proc/self/ns/mnt")
	// The caller's own view comes first, so that a mount that shows in many
	// namespaces is listed as the caller knows it.
	if self, err := s.fs.link("proc/self"); err == nil {
		if pid, err := strconv.Atoi(self); err == nil {
			pids = slices.Concat([]int{pid}, slices.DeleteFunc(pids, func(p int) bool { return p == pid }))
		}
	}
	for _, pid := range pids {
		s.note(s.process(pid))
		s.note(s.mountTable(pid))
	}
	return nil
}

// note remembers that something was hidden; what has vanished is nobody's user.
func (s *procScan) note(err error) {
	if errors.Is(err, fs.ErrPermission) {
		s.partial = true
	}
}

// process lists what one process has open of the target, each device once.
func (s *procScan) process(pid int) error {
	var devices []string
	err := s.fs.eachFD(pid, func(folder, fd, link string) {
		device, ok := s.target.named(link)
		// A node can stand anywhere under any name, but a name in brackets or with
		// a type and a colon (pipe:[…]) is not a file.
		if !ok && strings.HasPrefix(link, "/") {
			device, ok = s.target.at(s.fs, s.fs.path(folder, "fd", fd))
		}
		if ok {
			devices = append(devices, device)
		}
		if link == ringLink {
			devices = append(devices, s.registered(folder, fd)...)
		}
	})
	slices.Sort(devices)
	for _, device := range slices.Compact(devices) {
		comm, isUDev := s.fs.whoIs(pid)
		s.openers = append(s.openers, User{Kind: UserOpener, Device: device, PID: pid, Command: comm, UDev: isUDev})
	}
	return err
}

// registered lists the target's devices among the registered files of a ring,
// which need not be open otherwise.
func (s *procScan) registered(folder, fd string) []string {
	text, err := s.fs.word(folder, "fdinfo", fd)
	if err != nil {
		return nil
	}
	var devices []string
	for _, file := range parseRing(text).Files {
		// Old kernels print the last element of the path only.
		if name, ok := s.target.named("/dev/" + path.Base(file)); ok {
			devices = append(devices, name)
		}
	}
	return devices
}

// eachFD calls a function with each descriptor of a process and where it leads.
func (f *FS) eachFD(pid int, visit func(folder, fd, link string)) error {
	folder := "proc/" + strconv.Itoa(pid)
	fds, err := f.list(folder, "fd")
	if err != nil {
		return err
	}
	for _, fd := range fds {
		link, err := f.link(folder, "fd", fd)
		if errors.Is(err, fs.ErrPermission) {
			return err
		}
		if err == nil { // else closed in between
			visit(folder, fd, link)
		}
	}
	return nil
}

// udevNames are the names of udev's processes, old and new.
var udevNames = []string{"(udev-worker)", "systemd-udevd", "udevd", "udevadm"}

// whoIs returns a process's name, and whether it is udev or something that udev
// runs (blkid, a rule's program).
func (f *FS) whoIs(pid int) (comm string, isUDev bool) {
	stat, err := f.procStat("proc/" + strconv.Itoa(pid))
	if err != nil {
		return "?", false
	}
	if slices.Contains(udevNames, stat.comm) {
		return stat.comm, true
	}
	parent, err := f.procStat("proc/" + strconv.Itoa(stat.ppid))
	return stat.comm, err == nil && slices.Contains(udevNames, parent.comm)
}

// CharHolder returns the process that has /dev/ublkcN open: the server, whatever
// the driver says. ok is false if no process has it; if some processes could not
// be looked at, so that this is not certain, err is fs.ErrPermission then. A
// descriptor that was inherited shows its process with the lowest pid.
func (f *FS) CharHolder(id int) (pid int, ok bool, err error) {
	dev, err := f.CharDev(id)
	if err != nil {
		return 0, false, err
	}
	pids, err := f.pids()
	if err != nil {
		return 0, false, err
	}
	var hidden error
	for _, pid := range pids {
		holds, err := f.holdsChar(pid, charName(id), dev)
		if holds {
			return pid, true, nil
		}
		if errors.Is(err, fs.ErrPermission) {
			hidden = err
		}
	}
	return 0, false, hidden
}

// holdsChar says whether a process holds the char device: by descriptor, as a
// file registered with a ring, or by the mapping of the I/O descriptors. Only a
// process with a ring can be a server, so that only its maps are read: that takes
// a lock which a process that hangs in a page fault can keep.
func (f *FS) holdsChar(pid int, name string, dev Dev) (bool, error) {
	holds, hasRing := false, false
	err := f.eachFD(pid, func(folder, fd, link string) {
		switch {
		case holds:
		case link == ringLink:
			hasRing = true
			text, err := f.word(folder, "fdinfo", fd)
			holds = err == nil && slices.ContainsFunc(parseRing(text).Files, func(file string) bool { return path.Base(file) == name })
		case strings.HasPrefix(link, "/"):
			node, err := f.device(f.path(folder, "fd", fd))
			holds = err == nil && node.Char && node.Dev == dev
		}
	})
	if holds || !hasRing || err != nil {
		return holds, err
	}
	maps, err := f.word("proc", strconv.Itoa(pid), "maps")
	return mapsFile(maps, "/dev/"+name), err
}

// mapsFile says whether a file is mapped: the sixth column of /proc/PID/maps.
func mapsFile(maps, file string) bool {
	for line := range strings.Lines(maps) {
		columns := strings.Fields(line)
		if len(columns) >= 6 && columns[5] == file {
			return true
		}
	}
	return false
}
