package sysfs

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// UserKind is a way to use a block device.
type UserKind string

// The kinds of users.
const (
	UserMount  UserKind = "mount"
	UserSwap   UserKind = "swap"
	UserHolder UserKind = "holder" // a block device built on it: dm, md
	UserLoop   UserKind = "loop"   // a loop device backed by it
	UserOpener UserKind = "opener" // a process that has it open
)

// kindOrder is the order in which users are listed: what to end first, last.
var kindOrder = []UserKind{UserMount, UserSwap, UserHolder, UserLoop, UserOpener}

// User is something that uses a ublk disk or one of its partitions.
type User struct {
	Kind   UserKind
	ID     int    // of the ublk device
	Device string // ublkbN or ublkbNpM
	// PID and Command are the opener's. For a mount they are a process that sees
	// it, or 0 where no process that we can look at does.
	PID     int
	Command string
	// UDev says that the opener is udev looking at a new device; it ends by itself.
	UDev       bool
	MountPoint string // "" if no visible mount namespace has it
	FSType     string
	Namespace  uint64 // inode number of the mount namespace
	Foreign    bool   // the mount is not in the caller's own mount namespace
	Name       string // of a holder or loop device: dm-0, md127, loop3
	Label      string // device mapper's name for a holder
}

// String says it in words that fit into an error message.
func (u User) String() string {
	device := "/dev/" + u.Device
	switch u.Kind {
	case UserMount:
		return u.mountString(device)
	case UserSwap:
		return "swap is on " + device
	case UserHolder:
		if u.Label != "" {
			return fmt.Sprintf("device mapper %s (%s) is built on %s", u.Label, u.Name, device)
		}
		return fmt.Sprintf("/dev/%s is built on %s", u.Name, device)
	case UserLoop:
		return fmt.Sprintf("/dev/%s is backed by %s", u.Name, device)
	default:
		return fmt.Sprintf("pid %d (%s) has %s open", u.PID, u.Command, device)
	}
}

func (u User) mountString(device string) string {
	switch {
	case u.MountPoint == "":
		return fmt.Sprintf("%s is active on %s, mounted where no visible process sees it (lazily unmounted, or another mount namespace)",
			u.FSType, device)
	case u.Foreign:
		return fmt.Sprintf("%s (%s) is mounted from %s in the mount namespace of pid %d (%s)", u.MountPoint, u.FSType, device, u.PID, u.Command)
	default:
		return fmt.Sprintf("%s (%s) is mounted from %s", u.MountPoint, u.FSType, device)
	}
}

// Users finds who uses ublk disks or their partitions: mounts in the mount
// namespaces of all processes, swap, block devices built on them, loop devices,
// and processes that have them open, through a descriptor or a ring. A disk that
// was stopped under its openers still shows them. partial means that some
// processes could not be looked at for want of privilege; there may be more users.
//
// Every process is looked at once, however many the disks: that is the cost.
// Not seen are a mapping whose descriptor is closed, and users inside the kernel
// that leave no trace in sysfs.
func (f *FS) Users(ids ...int) (users []User, partial bool, err error) {
	disks, users, err := f.target(ids)
	if err != nil {
		return nil, false, err
	}
	for _, find := range []func(target) ([]User, error){f.swaps, f.loops} {
		found, err := find(disks)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, false, err
		}
		users = append(users, found...)
	}
	scan := procScan{fs: f, target: disks}
	if err := scan.run(); err != nil {
		return nil, false, err
	}
	users = append(users, scan.openers...)
	users = append(users, scan.mounts...)
	users = append(users, f.hiddenMounts(disks, scan.mounts)...)
	for i := range users {
		users[i].ID, _, _ = blockID(users[i].Device)
	}
	slices.SortStableFunc(users, func(a, b User) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(slices.Index(kindOrder, a.Kind), slices.Index(kindOrder, b.Kind)),
			cmp.Compare(a.Device, b.Device))
	})
	return users, scan.partial, nil
}

// target is ublk disks with their partitions, to be recognised wherever they are used.
type target struct {
	ids   map[int]bool
	names map[Dev]string // ublkbN and ublkbNpM; of a disk that is gone there are none
}

// target returns the devices to look for, and the holders, which come with them.
func (f *FS) target(ids []int) (target, []User, error) {
	t := target{ids: map[int]bool{}, names: map[Dev]string{}}
	var users []User
	for _, id := range ids {
		t.ids[id] = true
		name := blockName(id)
		dev, err := f.dev("sys/block", name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return t, nil, err
		}
		a := attributes{fs: f, folder: "sys/block/" + name}
		t.names[dev] = name
		users = append(users, holderUsers(name, a.holders(""))...)
		for _, partition := range a.partitions(name) {
			t.names[partition.Dev] = partition.Name
			users = append(users, holderUsers(partition.Name, partition.Holders)...)
		}
		if a.err != nil {
			return t, nil, a.err
		}
	}
	return t, users, nil
}

func holderUsers(device string, holders []Holder) []User {
	var users []User
	for _, holder := range holders {
		users = append(users, User{Kind: UserHolder, Device: device, Name: holder.Name, Label: holder.Label})
	}
	return users
}

// named returns a disk's or partition's name if a path names it in /dev, as
// the kernel prints paths: " (deleted)" follows when the node is gone.
func (t target) named(file string) (string, bool) {
	folder, name := path.Split(strings.TrimSuffix(file, " (deleted)"))
	id, _, ok := blockID(name)
	return name, ok && t.ids[id] && folder == "/dev/"
}

// at returns a disk's or partition's name if a path leads to its node, in a
// view of the file system that may be that of another process.
func (t target) at(f *FS, file string) (string, bool) {
	node, err := f.device(file)
	if err != nil || !node.Block {
		return "", false
	}
	name, ok := t.names[node.Dev]
	return name, ok
}

// swaps reads /proc/swaps: path, type and more, with a heading.
func (f *FS) swaps(t target) ([]User, error) {
	text, err := f.word("proc/swaps")
	if err != nil {
		return nil, err
	}
	var users []User
	for _, file := range parseSwaps(text) {
		name, ok := t.named(file)
		if !ok {
			name, ok = t.at(f, f.path(file))
		}
		if ok {
			users = append(users, User{Kind: UserSwap, Device: name})
		}
	}
	return users, nil
}

// parseSwaps returns the paths of the swap partitions. Swap files keep their file
// system mounted, which shows elsewhere.
func parseSwaps(text string) []string {
	var files []string
	for line := range strings.Lines(text) {
		columns := strings.Fields(line)
		if len(columns) >= 2 && columns[1] == "partition" {
			files = append(files, unescapeOctal(columns[0]))
		}
	}
	return files
}

func (f *FS) loops(t target) ([]User, error) {
	names, err := f.list("sys/block")
	if err != nil {
		return nil, err
	}
	var users []User
	for _, name := range names {
		if _, isLoop := idOf(name, "loop"); !isLoop {
			continue
		}
		file, err := f.word("sys/block", name, "loop/backing_file")
		if err != nil { // not bound
			continue
		}
		device, ok := t.named(file)
		if !ok && strings.HasPrefix(file, "/dev/") {
			device, ok = t.at(f, f.path(file))
		}
		if ok {
			users = append(users, User{Kind: UserLoop, Device: device, Name: name})
		}
	}
	return users, nil
}

// hiddenMounts finds file systems that are active on a device though no mount
// table shows them: most have a folder /sys/fs/TYPE/DEVICE while they live, and
// btrfs links all of its devices, of which mount tables name only one.
func (f *FS) hiddenMounts(t target, mounts []User) []User {
	types, err := f.list("sys/fs")
	if err != nil {
		return nil
	}
	var users []User
	for _, device := range t.names {
		if slices.ContainsFunc(mounts, func(u User) bool { return u.Device == device }) {
			continue
		}
		for _, fsType := range types {
			if f.exists("sys/fs", fsType, device) || fsType == "btrfs" && f.inBtrfs(device) {
				users = append(users, User{Kind: UserMount, Device: device, FSType: fsType, Foreign: true})
			}
		}
	}
	return users
}

func (f *FS) inBtrfs(device string) bool {
	ids, _ := f.list("sys/fs/btrfs")
	return slices.ContainsFunc(ids, func(id string) bool { return f.exists("sys/fs/btrfs", id, "devices", device) })
}
