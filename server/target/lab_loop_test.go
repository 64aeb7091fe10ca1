package target_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"testing"

	"golang.org/x/sys/unix"

	"ublk/internal/labtest"
	"ublk/internal/uapi"
	"ublk/server"
	"ublk/server/target/loop"
	"ublk/server/target/mem"
	"ublk/server/target/targettest"
)

// TestLabLoopRefuses is what must not become a disk.
func TestLabLoopRefuses(t *testing.T) {
	labtest.Require(t)
	ramDisk(t)
	dir := t.TempDir()
	small := filepath.Join(dir, "small")
	if err := os.WriteFile(small, make([]byte, 100), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]loop.Options{
		"directory": {File: dir},
		"missing":   {File: filepath.Join(dir, "none")},
		"short":     {File: small},
		"tty":       {File: "/dev/null"},
	} {
		if target, err := loop.Open(o); err == nil {
			t.Errorf("%s was accepted", name)
			_ = target.Close()
		}
	}
	first := openLoop(t, loop.Options{File: "/dev/ram1"})
	if target, err := loop.Open(loop.Options{File: "/dev/ram1"}); !errors.Is(err, unix.EBUSY) {
		t.Errorf("a block device that another loop has: %v", err)
		if err == nil {
			_ = target.Close()
		}
	}
	if err := errors.Join(opens(loop.Options{File: "/dev/ram1", Shared: true}), first.Close(), opens(loop.Options{File: "/dev/ram1"})); err != nil {
		t.Error(err)
	}
	mnt := mounted(t, "ext4")
	if target, err := loop.Open(loop.Options{File: ramDisk(t)}); err == nil {
		t.Errorf("a mounted block device was accepted (mounted on %s)", mnt)
		_ = target.Close()
	}
}

func opens(o loop.Options) error {
	target, err := loop.Open(o)
	if err != nil {
		return err
	}
	return target.Close()
}

// TestLabLoopReadOnly is a loop on what cannot be written: it says so, to the
// kernel as well, and can be read.
func TestLabLoopReadOnly(t *testing.T) {
	c := labtest.Require(t)
	content := bytes.Repeat([]byte("content "), 1<<17)
	dir := mounted(t, "ext4")
	file := filepath.Join(dir, "disk")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("/dev/ram1", content, 0o600); err != nil {
		t.Fatal(err)
	}
	labtest.Run(t, "mount", "-o", "remount,ro", dir)
	labtest.Run(t, "blockdev", "--setro", "/dev/ram1")
	t.Cleanup(func() { labtest.Run(t, "blockdev", "--setrw", "/dev/ram1") })
	for name, file := range map[string]string{"file": file, "block": "/dev/ram1"} {
		t.Run(name, func(t *testing.T) {
			target := openLoop(t, loop.Options{File: file, Size: int64(len(content))})
			if notes := target.(server.Noter).Notes(); len(notes) == 0 {
				t.Error("it is not said that the disk is read-only")
			}
			d := targettest.Start(t, c, server.Config{Type: "test"}, target)
			if got, err := os.ReadFile(d.Path()); err != nil || !bytes.Equal(got, content) {
				t.Errorf("%d bytes that are not the backing's: %v", len(got), err)
			}
			if ro, err := os.ReadFile("/sys/block/" + filepath.Base(d.Path()) + "/ro"); err != nil || string(ro) != "1\n" {
				t.Errorf("read-only to the kernel: %q, %v", ro, err)
			}
			if err := os.WriteFile(d.Path(), []byte{0}, 0); err == nil {
				t.Error("it was written to")
			}
		})
	}
}

// TestLabLoopFull is a file whose file system is full: its client gets ENOSPC, of
// which file systems make sense, and goes on.
func TestLabLoopFull(t *testing.T) {
	c := labtest.Require(t)
	for name, buffered := range map[string]bool{"direct": false, "buffered": true} {
		if buffered && os.Getenv("UBLK_LONG") == "" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			dir := mounted(t, "ext4")
			file := filepath.Join(dir, "disk")
			if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, 1<<30)); err != nil {
				t.Fatal(err)
			}
			labtest.Run(t, "fallocate", "--length", "80M", filepath.Join(dir, "rest"))
			d := targettest.Start(t, c, server.Config{Type: "test"}, openLoop(t, loop.Options{File: file, Buffered: buffered}))
			if j := fio(t, d, "--rw=write", "--bs=512k", "--iodepth=4", "--size=256m"); unix.Errno(j.Error) != unix.ENOSPC {
				t.Errorf("a write to a full disk: %v, want %v", unix.Errno(j.Error), unix.ENOSPC)
			}
			labtest.Run(t, "blkdiscard", d.Path())
			if j := fio(t, d, "--rw=write", "--bs=512k", "--size=16m"); j.Error != 0 {
				t.Errorf("when there is space again: %v", unix.Errno(j.Error))
			}
		})
	}
}

// TestLabLoopResize is a loop whose file grows with it, and one whose block
// device cannot.
func TestLabLoopResize(t *testing.T) {
	c := labtest.Require(t)
	labtest.RequireFeature(t, c, uapi.FlagUpdateSize)
	file := filepath.Join(mounted(t, "ext4"), "disk")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, 4<<20)); err != nil {
		t.Fatal(err)
	}
	d := targettest.Start(t, c, server.Config{Type: "test"}, openLoop(t, loop.Options{File: file}))
	if err := d.Resize(t.Context(), 16<<20); err != nil {
		t.Fatal(err)
	}
	if j := fio(t, d, "--rw=write", "--bs=64k", "--offset=8m", "--size=8m"); j.Error != 0 {
		t.Errorf("a write to what has come to it: %v", unix.Errno(j.Error))
	}
	if st, err := os.Stat(file); err != nil || st.Size() != 16<<20 {
		t.Errorf("the file has %d bytes, %v", st.Size(), err)
	}
	block := targettest.Start(t, c, server.Config{Type: "test"}, openLoop(t, loop.Options{File: "/dev/ram1"}))
	if err := block.Resize(t.Context(), 1<<40); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("more than the block device has: %v", err)
	}
}

// TestLabMemSparse is memory that a RAM disk takes for what is written and gives
// back for what is discarded.
func TestLabMemSparse(t *testing.T) {
	c := labtest.Require(t)
	target, err := mem.New(64 << 30) // much more than there is
	if err != nil {
		t.Fatal(err)
	}
	d := targettest.Start(t, c, server.Config{Type: "test", Depth: 4}, target) // with few buffers
	debug.FreeOSMemory()                                                       // what earlier tests left would be given back by and by
	before := resident(t)
	grown := func(what string, want int) {
		t.Helper()
		if got := resident(t) - before; got < want-8 || got > want+8 {
			t.Errorf("%s: %d MiB more than at first, want %d", what, got, want)
		}
	}
	fio(t, d, "--rw=write", "--bs=512k", "--offset=32g", "--size=64m")
	grown("64 MiB written", 64)
	labtest.Run(t, "blkdiscard", "--offset", fmt.Sprint(32<<30), "--length", fmt.Sprint(32<<20), d.Path())
	grown("half of it discarded", 32)
	labtest.Run(t, "fallocate", "--punch-hole", "--offset", fmt.Sprint(32<<30+32<<20), "--length", fmt.Sprint(32<<20), d.Path())
	grown("the other half zeroed", 0)
	labtest.Run(t, "cmp", "--bytes", fmt.Sprint(64<<20), "--ignore-initial", fmt.Sprint(32<<30)+":0", d.Path(), "/dev/zero")
	grown("all of it read", 0)
}

// resident is the anonymous memory of this process, in MiB.
func resident(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	_, rest, _ := bytes.Cut(text, []byte("\nRssAnon:"))
	var kib int
	if _, serr := fmt.Sscan(string(rest), &kib); err != nil || serr != nil {
		t.Fatal(err, serr)
	}
	return kib >> 10
}
