package target_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"ublk/internal/labtest"
	"ublk/server"
	"ublk/server/target/loop"
	"ublk/server/target/mem"
	"ublk/server/target/targettest"
)

// disk is a plain backend.
type disk struct {
	mu   sync.RWMutex
	data []byte
}

func (d *disk) ReadAt(p []byte, off int64) (int, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return copy(p, d.data[off:]), nil
}

func (d *disk) WriteAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return copy(d.data[off:], p), nil
}

func (d *disk) Flush() error               { return nil }
func (d *disk) Discard(off, n int64) error { return d.WriteZeroes(off, n, true) }
func (d *disk) WriteZeroes(off, n int64, _ bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.data[off : off+n])
	return nil
}

func TestLabBackend(t *testing.T) {
	c := labtest.Require(t)
	targettest.Conform(t, c, func(t *testing.T) server.Target {
		target, err := server.FromBackend(&disk{data: make([]byte, 40<<20)}, server.BackendConfig{Size: 40 << 20})
		if err != nil {
			t.Fatal(err)
		}
		return target
	})
}

func TestLabMem(t *testing.T) {
	c := labtest.Require(t)
	targettest.Conform(t, c, func(t *testing.T) server.Target {
		target, err := mem.New(40 << 20)
		if err != nil {
			t.Fatal(err)
		}
		return target
	})
}

// ramDisk is /dev/ram0, made by brd, of 64 MiB.
func ramDisk(t *testing.T) string {
	t.Helper()
	if _, err := os.Stat("/dev/ram0"); err != nil {
		labtest.Run(t, "modprobe", "brd", "rd_nr=2", "rd_size=131072")
	}
	return "/dev/ram0"
}

// mounted is a folder on a fresh file system of the given type.
func mounted(t *testing.T, fstype string) string { return freshFS(t, fstype, ramDisk(t)) }

func freshFS(t *testing.T, fstype, dev string) string {
	t.Helper()
	force := map[string]string{"ext4": "-F", "xfs": "-f", "btrfs": "-f"}[fstype]
	labtest.Run(t, "mkfs."+fstype, "-q", force, dev)
	dir := t.TempDir()
	labtest.Run(t, "mount", "-t", fstype, dev, dir)
	t.Cleanup(func() { labtest.Run(t, "umount", dir) })
	return dir
}

func openLoop(t *testing.T, o loop.Options) server.Target {
	t.Helper()
	target, err := loop.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

func TestLabLoopFile(t *testing.T) {
	c := labtest.Require(t)
	file := filepath.Join(mounted(t, "ext4"), "disk")
	for name, buffered := range map[string]bool{"direct": false, "buffered": true} {
		var short []string // all of direct I/O, which is the default
		if buffered {
			short = []string{"copy", "auto-reg"}
		}
		t.Run(name, func(t *testing.T) {
			targettest.Conform(t, c, func(t *testing.T) server.Target {
				if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, 48<<20)); err != nil {
					t.Fatal(err)
				}
				return openLoop(t, loop.Options{File: file, Offset: 1 << 20, Buffered: buffered})
			}, short...)
		})
	}
}

// TestLabLoop4K is a loop on blocks of 4 KiB: those of the block device, and of a
// file on it, which can be reached directly in such blocks only.
func TestLabLoop4K(t *testing.T) {
	c := labtest.Require(t)
	const dev = "/dev/nullb0"
	labtest.Run(t, "modprobe", "null_blk", "nr_devices=1", "memory_backed=1", "bs=4096", "gb=1", "discard=1")
	t.Cleanup(func() { labtest.Run(t, "rmmod", "null_blk") })
	conform := func(name string, o loop.Options, ready func() error) {
		t.Run(name, func(t *testing.T) {
			targettest.Conform(t, c, func(t *testing.T) server.Target {
				if err := ready(); err != nil {
					t.Fatal(err)
				}
				target := openLoop(t, o)
				if shift := target.Params().Basic.LogicalBlockShift; shift != 12 {
					t.Errorf("blocks of %d bytes", 1<<shift)
				}
				return target
			}, "copy", "auto-reg")
		})
	}
	if os.Getenv("UBLK_LONG") != "" {
		conform("block", loop.Options{File: dev, Offset: 3 << 12, Size: 40 << 20}, func() error { return nil })
	}
	file := filepath.Join(freshFS(t, "ext4", dev), "disk")
	conform("file", loop.Options{File: file, Offset: 5 << 12}, func() error {
		return errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, 48<<20))
	})
	if opens(loop.Options{File: file, Offset: 512}) == nil {
		t.Error("an offset in the middle of a block was accepted")
	}
}

func TestLabLoopBlock(t *testing.T) {
	c := labtest.Require(t)
	dev := ramDisk(t)
	targettest.Conform(t, c, func(t *testing.T) server.Target { return openLoop(t, loop.Options{File: dev, Size: 40 << 20}) })
}
