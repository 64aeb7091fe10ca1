package faults

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ublk/internal/labtest"
)

// TestLabLikeKernelLoop does the same discards and write-zeroes to a loop of
// ours and to one of the kernel's, each on a file: the disks have the same
// content and the same limits, and the files the same holes.
func TestLabLikeKernelLoop(t *testing.T) {
	begin(t)
	dir := backing(t)
	const size = 16 << 20
	theirs, ours := sparse(t, filepath.Join(dir, "theirs"), size), sparse(t, filepath.Join(dir, "ours"), size)
	labtest.Run(t, "modprobe", "loop")
	kernel := strings.TrimSpace(labtest.Run(t, "losetup", "--find", "--show", "--direct-io=on", theirs))
	t.Cleanup(func() { labtest.Run(t, "losetup", "--detach", kernel) })
	id := add(t, "-t", "loop", "-f", ours)
	for _, limit := range []string{"discard_granularity", "logical_block_size"} {
		if k, o := queueLimit(t, kernel, limit), queueLimit(t, node(id), limit); k != o {
			t.Errorf("%s is %s, the kernel's %s", limit, o, k)
		}
	}
	content := filled(t, size, 0)
	for i := range content {
		content[i] = byte(i>>12)*3 | 1
	}
	disks := map[string]*os.File{kernel: direct(t, kernel), node(id): direct(t, node(id))}
	for _, f := range disks {
		await(t, "the first write", writing(f, content, 0))
	}
	operations := []string{ // at odd places first: they begin and end in the middle of a block
		"blkdiscard --offset 1049088 --length 1048576 DISK",
		"blkdiscard --zeroout --offset 4194816 --length 3584 DISK",
		"fallocate --keep-size --zero-range --offset 6291968 --length 1048576 DISK", // without unmap
		"fallocate --punch-hole --offset 8389120 --length 1048576 DISK",             // with unmap
		"fallocate --keep-size --zero-range --offset 1572864 --length 1048576 DISK", // over a hole
		"blkdiscard --offset 0 --length 1048576 DISK",
		"blkdiscard --zeroout --offset 3145728 --length 1048576 DISK",
		"fallocate --keep-size --zero-range --offset 5242880 --length 1048576 DISK",
		"dd if=/dev/zero of=DISK bs=4k seek=128 count=16 oflag=direct conv=notrunc,fsync status=none",
		"blkdiscard --offset 12582912 --length 4194304 DISK", // up to the end
	}
	operations = operations[:labtest.Times(5, len(operations))]
	for i, op := range operations {
		for disk := range disks {
			argv := strings.Fields(strings.ReplaceAll(op, "DISK", disk))
			labtest.Run(t, argv[0], argv[1:]...)
		}
		if labtest.Times(len(operations)-1, 0) > i {
			continue // only what has come of all of them
		}
		a, b := filled(t, size, 0xff), filled(t, size, 0xfe)
		for disk, mem := range map[string][]byte{kernel: a, node(id): b} {
			if n, err := disks[disk].ReadAt(mem, 0); err != nil {
				t.Fatalf("%s: %d bytes, %v", disk, n, err)
			}
		}
		if !bytes.Equal(a, b) {
			t.Errorf("%d. %s: the disks differ", i, op)
		}
		k, theirSectors := extents(t, theirs)
		o, ourSectors := extents(t, ours)
		if k != o {
			t.Errorf("%d. %s: our file has data at%s, the kernel's at%s", i, op, o, k)
		}
		if d := ourSectors - theirSectors; d < -64 || d > 64 { // some are ext4's own
			t.Errorf("%d. %s: our file takes %d sectors, the kernel's %d", i, op, ourSectors, theirSectors)
		}
	}
	_ = disks[node(id)].Close()
	run(t, "del", strconv.Itoa(id))
}

// direct opens a disk past the page cache.
func direct(t *testing.T, disk string) *os.File {
	t.Helper()
	f, err := os.OpenFile(disk, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func queueLimit(t *testing.T, disk, name string) string {
	t.Helper()
	text, err := os.ReadFile("/sys/block/" + filepath.Base(disk) + "/queue/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// extents are where a file has data, and how many sectors it takes, with those
// that are kept for it but hold nothing.
func extents(t *testing.T, file string) (text string, sectors int64) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	for off := int64(0); off < st.Size; {
		data, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break
		}
		hole, herr := unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE)
		if err != nil || herr != nil {
			t.Fatal(err, herr)
		}
		text += fmt.Sprintf(" %#x-%#x", data, hole)
		off = hole
	}
	return text, st.Blocks
}
