package e2e

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ublk/internal/labtest"
	"ublk/internal/sysfs"
)

const forceHint = "\n  Unmount, close or detach it first. --force stops it anyway: its users get I/O errors.\n"

// TestLabDelInUse refuses to delete a disk that somebody uses, and says who.
func TestLabDelInUse(t *testing.T) {
	begin(t)
	_, file := ramDisk(t, 64<<20)
	d := add(t, "-t", "loop", "-f", file)
	server := d.server(t)
	refused := func(t *testing.T, who ...string) {
		t.Helper()
		run(t, "del", d.arg).fails(t, 7, append(who, fmt.Sprintf("ublk: del: device %d: in use\n", d.id), forceHint)...)
		run(t, "del", "--dry-run", d.arg).fails(t, 7, who...)
		if !alive(server) || d.server(t) != server {
			t.Fatal("the server is gone")
		}
	}
	t.Run("opener", func(t *testing.T) {
		f, err := os.Open(d.node)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		refused(t, fmt.Sprintf("\n  pid %d (e2e.test) has %s open\n", os.Getpid(), d.node))
	})
	t.Run("mount", func(t *testing.T) { testDelMounted(t, d, refused) })
	t.Run("swap", func(t *testing.T) {
		labtest.Run(t, "mkswap", d.node)
		labtest.Run(t, "swapon", d.node)
		defer labtest.Run(t, "swapoff", d.node)
		refused(t, "\n  swap is on "+d.node+"\n")
	})
	t.Run("dm", func(t *testing.T) {
		labtest.Run(t, "modprobe", "dm-mod")
		labtest.Run(t, "dmsetup", "create", "e2e", "--noudevsync", "--table", "0 131072 linear "+d.node+" 0")
		defer labtest.Run(t, "dmsetup", "remove", "--retry", "--noudevsync", "e2e")
		refused(t, "\n  device mapper e2e (dm-", ") is built on "+d.node+"\n")
	})
	t.Run("loop", func(t *testing.T) {
		labtest.Run(t, "modprobe", "loop")
		loop := strings.TrimSpace(labtest.Run(t, "losetup", "--find", "--show", d.node))
		defer labtest.Run(t, "losetup", "--detach", loop)
		refused(t, "\n  "+loop+" is backed by "+d.node+"\n")
	})
	run(t, "del", d.arg).prints(t, "") // nobody is left
	d.gone(t, server)
}

func testDelMounted(t *testing.T, d device, refused func(*testing.T, ...string)) {
	labtest.Run(t, "mkfs.ext4", "-q", d.node)
	point := t.TempDir()
	labtest.Run(t, "mount", d.node, point)
	mounted := fmt.Sprintf("%s (ext4) is mounted from %s", point, d.node)
	refused(t, "\n  "+mounted+"\n")

	// Of several, those that nobody uses go.
	others := []device{add(t, "-t", "null"), add(t, "-t", "null")}
	if r := run(t, "del", "--all"); r.code != 3 || r.stdout != "" {
		t.Errorf("one of three is in use: %v", r)
	} else {
		r.says(t, mounted)
	}
	if !d.exists() || others[0].exists() || others[1].exists() {
		t.Error("del --all deleted something else than what is not in use")
	}

	// Only in the mount namespace of another process.
	other := exec.Command("unshare", "--mount", "--propagation", "private", "cat")
	input, err := other.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = input.Close(); _ = other.Wait() }()
	eventually(t, "unshare runs cat", func() bool {
		process, err := sysfs.New("/").ProcessStat(other.Process.Pid)
		return err == nil && process.Comm == "cat"
	})
	labtest.Run(t, "umount", point)
	refused(t, fmt.Sprintf("\n  %s in the mount namespace of pid %d (cat)\n", mounted, other.Process.Pid))
}

// TestLabDelUnderLoad deletes a device that fio works on.
func TestLabDelUnderLoad(t *testing.T) {
	begin(t)
	d := add(t, "-t", "null", "-q", "2")
	server := d.server(t)
	fio := startFio(t, d)
	user := d.heldBy(t, sysfs.UserOpener, "fio")
	run(t, "del", d.arg).fails(t, 7, fmt.Sprintf("ublk: del: device %d: in use\n", d.id), fmt.Sprintf("\n  pid %d (fio) has %s open\n", user.PID, d.node), forceHint)
	if !alive(user.PID) || d.server(t) != server {
		t.Fatal("the refused del has ended something")
	}
	run(t, "info", d.arg).ok(t).has(t, fmt.Sprintf("pid %d (fio) has %s open", user.PID, d.node))
	r := run(t, "del", "--force", d.arg)
	if r.code != 0 || r.stdout != "" {
		t.Errorf("by force: %v", r)
	}
	if err := fio.Wait(); err == nil {
		t.Error("fio did not notice")
	}
	d.gone(t, server)
}

// startFio starts random reads and writes that go on until they fail.
func startFio(t *testing.T, d device) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("fio", "--name=load", "--filename="+d.node, "--rw=randrw", "--bs=4k", "--size=64m", "--direct=1", "--ioengine=libaio",
		"--iodepth=8", "--time_based", "--runtime=120")
	cmd.Dir = t.TempDir() // it leaves files where it is
	cmd.Stdout, cmd.Stderr = io.Discard, io.Discard
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	return cmd
}

// TestLabDelAsync does not wait for the number to be free.
func TestLabDelAsync(t *testing.T) {
	begin(t)
	d := add(t, "-t", "null")
	server := d.server(t)
	run(t, "del", "--async", d.arg).prints(t, "")
	d.gone(t, server)
	// A disk that was stopped in use keeps its number until its users go.
	d = add(t, "-t", "null")
	server = d.server(t)
	f, err := os.Open(d.node)
	if err != nil {
		t.Fatal(err)
	}
	r := run(t, "del", "--force", d.arg)
	if r.code != 0 || !strings.Contains(r.stderr, fmt.Sprintf("pid %d (e2e.test)", os.Getpid())) {
		t.Errorf("by force: %v", r)
	}
	run(t, "add", "-t", "null", "-n", d.arg).fails(t, 7, fmt.Sprintf("ublk: add: device %d: ADD_DEV: file exists\n", d.id),
		fmt.Sprintf("\n  Device %d was deleted, but somebody still holds it: pid %d (e2e.test)", d.id, os.Getpid()))
	f.Close()
	d.gone(t, server)
	if left, _ := filepath.Glob("/dev/ublk[bc]*"); len(left) > 0 {
		t.Errorf("nodes left: %v", left)
	}
}
