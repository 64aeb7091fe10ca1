package cmd

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublk/internal/ctrldev/fake"
	"ublk/internal/uapi"
)

// leave makes the fake server of a device go once it has been told to, after it
// has closed what else it has. left is closed then.
func (m *machine) leave(id int, before ...func()) (left <-chan struct{}) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !m.drv.Told(id) && m.t.Context().Err() == nil {
			time.Sleep(time.Millisecond) // the fake has no event for this
		}
		for _, do := range before {
			do()
		}
		_ = m.drv.CloseChar(id)
	}()
	m.t.Cleanup(func() { <-done })
	return done
}

func (m *machine) exists(id int) bool {
	_, ok := m.drv.Device(id)
	return ok
}

func TestDel(t *testing.T) {
	m := newMachine(t, fake.Options{})
	m.live(4411, 0)
	m.leave(0)
	m.remember(0, 1, "", "{}")
	m.drv.Forget()
	m.run("del", "--dry-run", "0").want(t, 0, "TRY_STOP_DEV dev_id=0\nDEL_DEV dev_id=0\n")
	if got := m.changing(); len(got) > 0 {
		t.Errorf("--dry-run sent %v", got)
	}
	r := m.run("del", "0")
	r.want(t, 0)
	if r.stdout+r.stderr != "" {
		t.Errorf("said %q", r.stdout+r.stderr)
	}
	if got := m.changing(); !slices.Equal(got, []string{"TRY_STOP_DEV 0", "DEL_DEV 0"}) {
		t.Errorf("sent %v", got)
	}
	if ids, _ := m.state.IDs(); len(ids) > 0 || m.exists(0) {
		t.Error("something is left")
	}
	m.run("del", "0").want(t, 4, "There are no devices.")
	m.run("del", "-a").want(t, 0)
	m.run("del").want(t, 64, "--all")
}

func TestDelOnOldKernel(t *testing.T) {
	m := newMachine(t, fake.Options{Kernel: fake.Linux6_12})
	m.live(4411, 0)
	m.leave(0)
	m.drv.Forget()
	m.run("del", "0").want(t, 0)
	if got := m.changing(); !slices.Equal(got, []string{"TRY_STOP_DEV 0", "STOP_DEV 0", "DEL_DEV 0"}) {
		t.Errorf("sent %v", got)
	}
}

func TestDelOfDeviceNotStarted(t *testing.T) {
	m := newMachine(t, fake.Options{})
	m.add(0)
	m.drv.Forget()
	m.run("rm", "0").want(t, 0)
	if got := m.changing(); !slices.Equal(got, []string{"TRY_STOP_DEV 0", "STOP_DEV 0", "DEL_DEV 0"}) {
		t.Errorf("sent %v", got)
	}
}

func TestDelInUse(t *testing.T) {
	m := newMachine(t, fake.Options{})
	m.live(4411, 0)
	end := m.opener(70, "cat", 0)
	m.drv.Forget()
	m.run("del", "0").want(t, 7, "device 0: in use\n  pid 70 (cat) has /dev/ublkb0 open", "--force")
	m.run("del", "0", "--dry-run").want(t, 7)
	if got := m.changing(); !slices.Equal(got, []string{"TRY_STOP_DEV 0"}) {
		t.Errorf("sent %v", got)
	}
	end()

	m.write("proc/80/stat", "80 (sh) S 1"+strings.Repeat(" 0", 50))
	m.link("proc/80/ns/mnt", "mnt:[4026531840]")
	m.link("proc/80/root", "/")
	m.write("proc/80/mountinfo", "50 1 259:0 / /srv/a rw - ext4 /dev/ublkb0 rw\n")
	m.must(m.drv.OpenBlock(0))
	m.run("del", "0").want(t, 7, "/srv/a (ext4) is mounted from /dev/ublkb0")
	m.remove("proc/80")

	// Somebody whom we cannot see has it open: the driver decides.
	m.run("del", "0").want(t, 7, "by whom cannot be seen")
	m.must(m.drv.CloseBlock(0))
	m.leave(0)
	m.run("del", "0").want(t, 0)
}

// TestDelWaitsForUdev: udev is waited for, as it goes by itself.
func TestDelWaitsForUdev(t *testing.T) {
	m := newMachine(t, fake.Options{})
	m.live(4411, 0)
	m.leave(0)
	end := m.opener(70, "(udev-worker)", 0)
	timer := time.AfterFunc(100*time.Millisecond, end)
	defer timer.Stop()
	m.run("del", "0").want(t, 0)

	m.live(4411, 0)
	m.opener(70, "(udev-worker)", 0)
	m.run("del", "0").want(t, 7, "(udev-worker)")
}

func TestDelForce(t *testing.T) {
	m := newMachine(t, fake.Options{})
	m.live(4411, 0)
	left := m.leave(0)
	end := m.opener(70, "cat", 0)
	m.drv.Forget()
	m.run("del", "--force", "0").want(t, 0, "its number is free when its users close it: pid 70 (cat)")
	if got := m.changing(); !slices.Equal(got, []string{"STOP_DEV 0", "DEL_DEV_ASYNC 0"}) {
		t.Errorf("sent %v", got)
	}
	<-left
	end()
	if m.exists(0) {
		t.Error("still there")
	}
}

func TestDelAsync(t *testing.T) {
	m := newMachine(t, fake.Options{})
	m.add(0)
	m.drv.Forget()
	m.run("del", "--async", "0").want(t, 0)
	if got := m.changing(); !slices.Contains(got, "DEL_DEV_ASYNC 0") {
		t.Errorf("sent %v", got)
	}
}

// TestDelHangs: a server that does not answer, and one that does not let go.
func TestDelHangs(t *testing.T) {
	m := newMachine(t, fake.Options{})
	m.live(4411, 0)
	m.must(m.drv.Hold(0, 1))
	m.run("del", "0", "--timeout", "0.2").want(t, 8, "TRY_STOP_DEV", "its server is 4411 (server)")
	m.must(m.drv.KillServer(0))

	m.live(500, 0)
	m.run("del", "1", "--timeout", "0.2").want(t, 8, "its number is not free yet", "its server is 500 (server)")
}

func TestDelWaitsForLock(t *testing.T) {
	m := newMachine(t, fake.Options{})
	m.add(0)
	lock, err := m.state.Lock(t.Context(), 0)
	m.must(err)
	m.run("del", "0", "--timeout", "0.2").want(t, 7, "0.lock is held by pid")
	if !m.exists(0) {
		t.Error("deleted under a lock")
	}
	m.must(lock.Unlock())
	m.run("del", "0").want(t, 0)
}

// TestDelSeveral: exit codes, and devices that are used by the servers of others.
func TestDelSeveral(t *testing.T) {
	m := newMachine(t, fake.Options{})
	m.add(0)
	m.add(0)
	m.run("del", "0", "9", "1", "0").want(t, 3, "device 9")
	m.run("del", "8", "9").want(t, 4)

	m.live(4411, 0) // 0 is below 1: the server of 1 has 0 open
	m.live(500, 0)
	m.link("proc/500/fd/9", "/dev/ublkb0")
	m.must(m.drv.OpenBlock(0))
	m.leave(0)
	m.leave(1, func() { m.remove("proc/500"); _ = m.drv.CloseBlock(0) })
	m.run("del", "-a").want(t, 0, "!in use")
	if m.exists(0) || m.exists(1) {
		t.Error("something is left")
	}
}

// TestDelWaitsForOurServer: the state folder of a device of ours goes after its server.
func TestDelWaitsForOurServer(t *testing.T) {
	m := newMachine(t, fake.Options{})
	m.run("add", "--no-start", "-t", "null", "--size", "1M").want(t, 0)
	child := exec.Command("sleep", "60")
	m.must(child.Start())
	pid := child.Process.Pid
	m.server(pid, 0)
	m.run("start", "0").want(t, 0)
	m.leave(0)
	m.run("del", "0", "--timeout", "1.5").want(t, 8, "its server")
	if ids, _ := m.state.IDs(); len(ids) != 1 {
		t.Error("the state folder of a running server is gone")
	}
	time.AfterFunc(100*time.Millisecond, func() { _ = child.Process.Kill(); _ = child.Wait() })
	m.run("del", "0").want(t, 0)
	if ids, _ := m.state.IDs(); len(ids) > 0 || m.exists(0) {
		t.Error("something is left")
	}
}

func TestDelInterrupted(t *testing.T) {
	m := newMachine(t, fake.Options{})
	m.live(4411, 0)
	m.live(500, 0)
	m.drv.Freeze(uapi.CmdTryStopDev, true)
	done := make(chan result)
	go func() { done <- m.run("del", "-a") }()
	m.must(m.drv.Wait(t.Context(), 2), unix.Kill(unix.Getpid(), unix.SIGTERM))
	(<-done).want(t, 143)
	m.drv.Unfreeze(uapi.CmdTryStopDev)
	if !m.exists(0) || !m.exists(1) {
		t.Error("went on after a signal")
	}
}
