package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ublk/internal/labtest"
)

// TestLabBackingInUse refuses a backing that somebody else writes to.
func TestLabBackingInUse(t *testing.T) {
	begin(t)
	_, file := ramDisk(t, 16<<20)
	const hint = "device or resource busy\n  Somebody else has it: it is mounted, swap, part of a volume, behind another disk or a virtual machine. --shared takes it all the same.\n"
	run(t, "add", "-t", "loop", "-f", "/dev/ram0").fails(t, 7, "ublk: add: open /dev/ram0: ", hint)
	first := add(t, "-t", "loop", "-f", file, "--size", "8M")
	run(t, "add", "-t", "loop", "-f", file).fails(t, 7, "ublk: add: "+file+": somebody else has a lock on it: ", hint)
	add(t, "-t", "loop", "-f", file, "--offset", "8M")
	add(t, "-t", "loop", "-f", file, "--read-only")
	add(t, "-t", "loop", "-f", file, "--shared")
	run(t, "del", first.arg).prints(t, "")
	add(t, "-t", "loop", "-f", file, "--size", "8M")
}

// TestLabBackingOnItself has a device that waits for a server, and would have to
// wait for itself if its backing were on it: nobody looks at that file, which
// would never return.
func TestLabBackingOnItself(t *testing.T) {
	begin(t)
	_, file := ramDisk(t, 64<<20)
	d := add(t, "-t", "loop", "-f", file, "--recovery=reissue")
	labtest.Run(t, "modprobe", "-a", "dm-mod", "loop")
	labtest.Run(t, "dmsetup", "create", "itself", "--noudevsync", "--table", "0 131072 linear "+d.node+" 0")
	labtest.Run(t, "dmsetup", "mknodes", "itself")
	t.Cleanup(func() { labtest.Run(t, "dmsetup", "remove", "--retry", "--noudevsync", "itself") })
	labtest.Run(t, "mkfs.ext4", "-q", "-F", "/dev/mapper/itself")
	mnt := t.TempDir()
	labtest.Run(t, "mount", "/dev/mapper/itself", mnt)
	t.Cleanup(func() { labtest.Run(t, "umount", mnt) })
	inside := filepath.Join(mnt, "disk")
	labtest.Run(t, "truncate", "--size", "64M", inside)
	labtest.Run(t, "sync", "--file-system", mnt)
	server := d.server(t)
	if err := unix.Kill(server, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the device waits for a server", func() bool {
		return strings.Contains(run(t, "list", "--noheadings", "-o", "STATE", d.arg).stdout, "QUIESCED")
	})
	for _, backing := range []string{inside, "/dev/mapper/itself", d.node} {
		for _, command := range []string{"serve", "recover"} {
			run(t, command, d.arg, "-f", backing).fails(t, 1, "on itself: its backing file cannot be reached without it")
		}
	}
	run(t, "recover", d.arg).prints(t, d.node+"\n")
	labtest.Run(t, "sync", "--file-system", mnt)
}
