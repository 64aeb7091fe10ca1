package sysfs

import (
	"slices"
	"strconv"
	"strings"
)

// mountTable adds the target's mounts that a process sees and that were not seen
// yet. A mount table is that of a namespace as far as the process's root folder
// shows it, so that each pair of the two is read once.
func (s *procScan) mountTable(pid int) error {
	folder := "proc/" + strconv.Itoa(pid)
	namespace, err := s.fs.link(folder, "ns/mnt")
	if err != nil {
		return err
	}
	root, err := s.fs.link(folder, "root")
	if err != nil {
		return err
	}
	if view := namespace + root; s.views[view] {
		return nil
	} else {
		s.views[view] = true
	}
	table, err := s.fs.word(folder, "mountinfo")
	if err != nil {
		return err
	}
	for _, mount := range parseMountInfo(table) {
		device, ok := s.target.mounted(s.fs, mount)
		if !ok || s.knows(device, mount) {
			continue
		}
		comm, _ := s.fs.whoIs(pid)
		s.mounts = append(s.mounts, User{
			Kind: UserMount, Device: device, PID: pid, Command: comm, MountPoint: mount.point, FSType: mount.fsType,
			Namespace: namespaceInode(namespace), Foreign: namespace != s.own,
		})
	}
	return nil
}

// knows says whether the same mount was found before, in this or another namespace.
func (s *procScan) knows(device string, mount mountInfo) bool {
	return slices.ContainsFunc(s.mounts, func(u User) bool {
		return u.Device == device && u.MountPoint == mount.point && u.FSType == mount.fsType
	})
}

// mounted returns the device that a mount is of. btrfs and others show a device
// number of their own, and only the source names the disk.
func (t target) mounted(f *FS, mount mountInfo) (string, bool) {
	if name, ok := t.names[mount.dev]; ok {
		return name, true
	}
	if name, ok := t.named(mount.source); ok {
		return name, true
	}
	if strings.HasPrefix(mount.source, "/dev/") { // a link, as in /dev/disk/by-uuid
		return t.at(f, f.path(mount.source))
	}
	return "", false
}

// namespaceInode returns N of mnt:[N].
func namespaceInode(link string) uint64 {
	_, number, _ := strings.Cut(link, "[")
	inode, _ := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 64)
	return inode
}

// mountInfo is a line of /proc/PID/mountinfo.
type mountInfo struct {
	dev                   Dev
	point, fsType, source string
}

// parseMountInfo reads lines as proc_pid_mountinfo(5) describes them: id, parent,
// major:minor, root, mount point, options, any number of optional fields, a
// hyphen, type, source, options. Lines that are not so are skipped.
func parseMountInfo(text string) []mountInfo {
	var mounts []mountInfo
	for line := range strings.Lines(text) {
		before, after, found := strings.Cut(line, " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !found || len(left) < 6 || len(right) < 2 {
			continue
		}
		dev, ok := parseDev(left[2])
		if !ok {
			continue
		}
		mounts = append(mounts, mountInfo{dev: dev, point: unescapeOctal(left[4]), fsType: right[0], source: unescapeOctal(right[1])})
	}
	return mounts
}

// unescapeOctal undoes the kernel's \040 for characters that would split a line.
func unescapeOctal(text string) string {
	if !strings.Contains(text, `\`) {
		return text
	}
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+4 <= len(text) {
			if char, err := strconv.ParseUint(text[i+1:i+4], 8, 8); err == nil {
				out.WriteByte(byte(char))
				i += 3
				continue
			}
		}
		out.WriteByte(text[i])
	}
	return out.String()
}
