// Package faults tests what a disk is for: that what was written safely is
// there after the power failed, after a server died in the middle of a write,
// and after ordinary use by file systems. The program is $UBLK_BIN. For the lab
// alone.
package faults

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/internal/labtest"
	"ublk/internal/sysfs"
)

// patience bounds every wait. An emulated guest on a busy machine is slow.
const patience = 60 * time.Second

// begin is labtest.Begin on a machine where requests may be stuck at the end.
func begin(t *testing.T) *ctrl.Client {
	t.Helper()
	c := labtest.Begin(t)
	t.Cleanup(func() {
		ids, _ := sysfs.New("/").Devices()
		for _, id := range ids {
			_, _ = try("fault", strconv.Itoa(id), "--clear") // what is stuck would hold the deletion up
		}
	})
	return c
}

// try runs the program.
func try(args ...string) (output string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, os.Getenv("UBLK_BIN"), args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("ublk %s: %w", strings.Join(args, " "), err)
	}
	return string(out), err
}

// run runs the program, which must succeed.
func run(t testing.TB, args ...string) string {
	t.Helper()
	out, err := try(args...)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return out
}

// add makes a device.
func add(t testing.TB, args ...string) int {
	t.Helper()
	out := run(t, append([]string{"add"}, args...)...)
	for line := range strings.Lines(out) {
		if digits, ok := strings.CutPrefix(strings.TrimSpace(line), "/dev/ublkb"); ok {
			if id, err := strconv.Atoi(digits); err == nil {
				return id
			}
		}
	}
	t.Fatalf("add %v: %s", args, out)
	return 0
}

func node(id int) string { return ctrl.BlockPath(id) }

// backing is a folder on an ext4 on a RAM disk.
func backing(t testing.TB) string {
	t.Helper()
	if _, err := os.Stat("/dev/ram0"); err != nil {
		labtest.Run(t, "modprobe", "brd", "rd_nr=1", "rd_size=786432")
	}
	labtest.Run(t, "mkfs.ext4", "-q", "-F", "/dev/ram0")
	dir := t.TempDir()
	mount(t, "/dev/ram0", dir)
	return dir
}

// mount mounts a file system until the test ends.
func mount(t testing.TB, dev, dir string) {
	t.Helper()
	labtest.Run(t, "mount", dev, dir)
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// sparse is a new file of a size.
func sparse(t testing.TB, path string, bytes int64) string {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, bytes); err != nil {
		t.Fatal(err)
	}
	return path
}

// kill kills the server of a device.
func kill(t testing.TB, c *ctrl.Client, id int) {
	t.Helper()
	info, err := c.Info(t.Context(), id)
	if err != nil || info.ServerPID <= 0 {
		t.Fatalf("device %d has no server: %v", id, err)
	}
	if err := unix.Kill(info.ServerPID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// lost waits until a device has lost its server.
func lost(t testing.TB, c *ctrl.Client, id int, state ctrl.State) {
	t.Helper()
	eventually(t, fmt.Sprintf("device %d is %s", id, state), func() bool {
		info, err := c.Info(t.Context(), id)
		return err == nil && info.State == state
	})
}

// eventually waits for something that announces itself to nobody.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it did not come to be that %s", what)
		}
	}
}

// inflight is the number of requests that a disk has not answered.
func inflight(t testing.TB, id int) int {
	t.Helper()
	text, err := os.ReadFile("/sys/block/" + filepath.Base(node(id)) + "/inflight")
	var reads, writes int
	if _, serr := fmt.Sscan(string(text), &reads, &writes); err != nil || serr != nil {
		t.Fatal(err, serr)
	}
	return reads + writes
}

// openDisk opens a disk past the page cache.
func openDisk(t testing.TB, id int) *os.File {
	t.Helper()
	f, err := os.OpenFile(node(id), os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// page is aligned memory full of b.
func page(t testing.TB, b byte) []byte { return filled(t, 4096, b) }

// filled is aligned memory of a size, full of b.
func filled(t testing.TB, size int, b byte) []byte {
	t.Helper()
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	copy(mem, bytes.Repeat([]byte{b}, len(mem)))
	return mem // a request that is stuck may outlive the test
}

// writing writes in the background.
func writing(f *os.File, data []byte, off int64) <-chan error {
	done := make(chan error, 1)
	go func() { _, err := f.WriteAt(data, off); done <- err }()
	return done
}

func await(t testing.TB, what string, done <-chan error) {
	t.Helper()
	select {
	case err := <-done:
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	case <-time.After(patience):
		t.Fatalf("%s: no answer", what)
	}
}

func holds(t testing.TB, f *os.File, off int64, b byte) {
	t.Helper()
	got := page(t, 0)
	if _, err := f.ReadAt(got, off); err != nil || !bytes.Equal(got, bytes.Repeat([]byte{b}, len(got))) {
		t.Errorf("at %d the disk has %x…, want %x; %v", off, got[0], b, err)
	}
}
