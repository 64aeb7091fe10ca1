package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// introduction is ublk(8): what there is to know before any command.
func introduction(root *cobra.Command) []byte {
	p := newPage("ublk")
	p.section("NAME")
	fmt.Fprintf(&p.b, "ublk \\- %s\n", escape(root.Short))
	p.section("SYNOPSIS")
	fmt.Fprintf(&p.b, "%s %s [%s...] [%s]\n", bold("ublk"), italic("COMMAND"), italic("DEVICE"), italic("OPTIONS"))
	p.section("DESCRIPTION")
	p.text(`ublk is a driver of Linux (CONFIG_BLK_DEV_UBLK, module ublk_drv) for block devices whose data a program provides, the server. This program administers the devices of any server, serves devices itself, keeps them alive when a server dies, and shows what they do.

Linux 6.5 is the oldest release that is supported; what a kernel has beyond that, ublk-features(8) tells.`)
	p.section("CONCEPTS")
	for _, concept := range concepts() {
		p.item(bold(concept[0]), concept[1])
	}
	p.section("TOUR")
	p.text(tour)
	p.section("COMMANDS")
	for _, group := range root.Groups() {
		fmt.Fprintf(&p.b, ".SS %s\n", escape(group.Title[:len(group.Title)-1]))
		for _, c := range root.Commands() {
			if c.GroupID == group.ID && documented(c) {
				p.item(bold("ublk-"+c.Name())+"(8)", capital(c.Short)+".")
			}
		}
	}
	p.section("FILES")
	for _, file := range files() {
		p.item(italic(file[0]), file[1])
	}
	p.section("ENVIRONMENT")
	for _, variable := range environment() {
		p.item(bold(variable[0]), variable[1])
	}
	p.exitStatus()
	p.section("SEE ALSO")
	p.seeAlso(root, "")
	p.paragraph("losetup(8), lsblk(8), modprobe(8); https://docs.kernel.org/block/ublk.html")
	return p.bytes()
}

// tour is what the README shows, in fewer words.
const tour = `As root: load the driver, and make a disk in a file. The command returns when the disk is there; its server is a process of its own, which needs neither the command nor the terminal any more.

  # modprobe ublk_drv
  # truncate -s 1G disk.img
  # ublk add -t loop --file disk.img --recovery=reissue --name scratch
  /dev/ublkb0
  # mkfs.ext4 -q /dev/ublkb0
  # mount /dev/ublkb0 /mnt

See what there is, what it does, and all that is known about it. The name can stand wherever a number can.

  # ublk list
  # ublk top
  # ublk info scratch

What is in use does not go away by accident, and it is said who uses it.

  # ublk del scratch
  ublk: del: device 0: in use
    /mnt (ext4) is mounted from /dev/ublkb0

When the server dies, the disk stays and its I/O waits, until it has a new one. ublk watch sees to that by itself.

  # kill -KILL "$(ublk list scratch --noheadings -o SERVER)"
  # ublk recover scratch
  /dev/ublkb0

A disk can grow while it is in use (ublk resize), and its server can be replaced after an update of the program (ublk upgrade); both need Linux 6.16. The end:

  # umount /mnt
  # ublk del scratch`

func concepts() [][2]string {
	return [][2]string{
		{"DEVICE", "A number (0), a node (ublkb0, /dev/ublkb0, /dev/ublkc0), or the name given with ublk add --name. -n NUMBER is taken wherever a DEVICE is, and --all means every device."},
		{"server", "The process that has opened /dev/ublkcN and answers the device's requests. One process serves one device; it outlives the command that started it."},
		{"queue, tag", "A device has queues, each with a number of tags (its depth); every tag carries one request at a time. The server has a thread for each queue."},
		{"state", "DEAD: there is no block device, since the device was not started, was stopped, or lost its server without recovery. LIVE: there are a block device and a server. QUIESCED: the server is gone, the block device is there, and I/O waits. FAIL_IO: the same, but I/O fails."},
		{"recovery", "What becomes of a device whose server dies. none: it is DEAD and all I/O fails. requeue: requests that the server held fail, others wait. reissue: all wait, and those that the server held are sent again, so that a write may be executed twice. fail: all fail until there is a new server."},
		{"data mode", "How data moves between a request and the server. copy: by the driver, to and from a buffer of the server's. user-copy: by the server, with pread and pwrite on the char device. zero-copy: not at all, the server's I/O uses the request's pages, which it registers; with auto-reg the driver registers them. none: not at all, and what readers see is undefined."},
		{"health", "healthy; stalled: the server has requests and answers none; parked: the driver keeps requests back; waiting, failing: there is no server, and I/O waits or fails; wedged: the device is being stopped and does not come to an end; dead: there is no block device."},
	}
}

func files() [][2]string {
	return [][2]string{
		{"/dev/ublk-control", "The control node of the driver."},
		{"/dev/ublkbN", "The block device of device N."},
		{"/dev/ublkcN", "The char device of its server. Nothing else may open it: that a file is closed means to the driver that a server has gone."},
		{"/run/ublk/N/config", "What a new server of device N starts from. Devices of ordinary users have their folders in $XDG_RUNTIME_DIR/ublk."},
		{"/run/ublk/N/log", "What the server says, down to the text of a panic."},
		{"/run/ublk/N/stats", "Counters, latencies and tags of the running server; stats.PID is that of one that died."},
		{"/run/ublk/N/ctl", "The control socket of the server, for ublk resize and ublk fault."},
	}
}

func environment() [][2]string {
	return [][2]string{
		{"UBLK_RUNDIR", "A folder to use instead of /run/ublk."},
		{"XDG_RUNTIME_DIR", "Where ordinary users' state is kept, in the folder ublk."},
		{"NO_COLOR", "If it is not empty, nothing is coloured."},
	}
}
