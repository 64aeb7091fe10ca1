package sysfs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/internal/uring"
)

// run runs a program of the system, or skips the test where it is missing.
func run(t *testing.T, name string, arguments ...string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("no %s here", name)
	}
	if out, err := exec.Command(name, arguments...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v: %s", name, arguments, err, out)
	}
}

// users waits until the users read as wanted: udev and lazy closes come between.
func (d *testDevice) users(t *testing.T, want ...string) {
	t.Helper()
	f := New("/")
	var got []string
	deadline := time.Now().Add(10 * time.Second)
	for {
		users, partial, err := f.Users(d.id)
		if err != nil || partial {
			t.Fatalf("users: partial %v, %v", partial, err)
		}
		got = nil
		for _, user := range users {
			got = append(got, strings.ReplaceAll(user.String(), ctrl.BlockPath(d.id), "DEV"))
		}
		if slices.Equal(got, want) {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("users are\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestLabOpeners(t *testing.T) {
	d := newTestDevice(t)
	d.users(t)
	comm, _ := New("/").whoIs(os.Getpid())
	self := fmt.Sprintf("pid %d (%s) has DEV open", os.Getpid(), comm)

	file, err := os.Open(ctrl.BlockPath(d.id))
	if err != nil {
		t.Fatal(err)
	}
	d.users(t, self)
	ring, err := uring.New(uring.Config{Entries: 4})
	if err != nil {
		t.Fatal(err)
	}
	if err := ring.RegisterFiles([]int32{int32(file.Fd())}); err != nil {
		t.Fatal(err)
	}
	file.Close()
	d.users(t, self)
	ring.Close()
	d.users(t)

	// A node of another name, as in a container.
	node := filepath.Join(t.TempDir(), "disk")
	disk, err := New("/").Disk(d.id)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(node, unix.S_IFBLK|0o600, int(unix.Mkdev(disk.Dev.Major, disk.Dev.Minor))); err != nil {
		t.Fatal(err)
	}
	if file, err = os.Open(node); err != nil {
		t.Fatal(err)
	}
	d.users(t, self)
	if err := d.client.Stop(t.Context(), d.id); err != nil {
		t.Fatal(err)
	}
	file.Close()
}

func TestLabOpenerOfStopped(t *testing.T) {
	d := newTestDevice(t)
	file, err := os.Open(ctrl.BlockPath(d.id))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := d.client.Stop(t.Context(), d.id); err != nil {
		t.Fatal(err)
	}
	users, _, err := New("/").Users(d.id)
	if err != nil || len(users) != 1 || users[0].PID != os.Getpid() {
		t.Errorf("users of a stopped device: %v, %v", users, err)
	}
	file.Close()
}

func TestLabMounts(t *testing.T) {
	d := newTestDevice(t)
	device := ctrl.BlockPath(d.id)
	run(t, "mkfs.ext4", "-q", device)
	point := t.TempDir()
	run(t, "mount", "-t", "ext4", device, point)
	d.users(t, point+" (ext4) is mounted from DEV")

	// A namespace that keeps a mount of its own.
	other := exec.Command("unshare", "--mount", "--propagation", "private", "cat")
	input, err := other.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	f := New("/")
	eventually(t, "unshare runs cat", func() bool {
		process, err := f.ProcessStat(other.Process.Pid)
		return err == nil && process.Comm == "cat"
	})
	run(t, "umount", point)
	d.users(t, fmt.Sprintf("%s (ext4) is mounted from DEV in the mount namespace of pid %d (cat)", point, other.Process.Pid))
	input.Close()
	other.Wait()
	d.users(t)

	// Lazily unmounted, but with a file open.
	run(t, "mount", "-t", "ext4", device, point)
	file, err := os.Create(filepath.Join(point, "file"))
	if err != nil {
		t.Fatal(err)
	}
	run(t, "umount", "-l", point)
	d.users(t, "ext4 is active on DEV, mounted where no visible process sees it (lazily unmounted, or another mount namespace)")
	file.Close()
	d.users(t)
}

func TestLabBtrfs(t *testing.T) {
	d, second := newTestDevice(t), newTestDevice(t)
	if _, err := exec.LookPath("mkfs.btrfs"); err != nil {
		t.Skip("no mkfs.btrfs here")
	}
	_ = exec.Command("modprobe", "btrfs").Run()
	run(t, "mkfs.btrfs", "-q", "--mixed", "-d", "single", "-m", "single", ctrl.BlockPath(d.id), ctrl.BlockPath(second.id))
	point := t.TempDir()
	run(t, "mount", "-t", "btrfs", ctrl.BlockPath(d.id), point)
	defer run(t, "umount", point)
	d.users(t, point+" (btrfs) is mounted from DEV")
	second.users(t, "btrfs is active on DEV, mounted where no visible process sees it (lazily unmounted, or another mount namespace)")
}

func TestLabHolders(t *testing.T) {
	d := newTestDevice(t)
	device := ctrl.BlockPath(d.id)
	_ = exec.Command("modprobe", "-a", "dm-mod", "loop").Run()
	run(t, "mkswap", device)
	run(t, "swapon", device)
	d.users(t, "swap is on DEV")
	run(t, "swapoff", device)

	run(t, "dmsetup", "create", "ublktest", "--noudevsync", "--table", fmt.Sprintf("0 %d linear %s 0", testDiskSize/512, device))
	users, _, err := New("/").Users(d.id)
	if err != nil || len(users) != 1 || users[0].Label != "ublktest" || !strings.HasPrefix(users[0].String(), "device mapper ublktest (dm-") {
		t.Errorf("users under device mapper: %v, %v", users, err)
	}
	run(t, "dmsetup", "remove", "--retry", "--noudevsync", "ublktest") // udev may be looking at it

	out, err := exec.Command("losetup", "--find", "--show", device).Output()
	if err != nil {
		t.Fatal(err)
	}
	loop := strings.TrimSpace(string(out))
	d.users(t, loop+" is backed by DEV")
	run(t, "losetup", "-d", loop)
	d.users(t)
}
