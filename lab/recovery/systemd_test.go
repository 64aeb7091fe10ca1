package recovery

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/internal/labtest"
)

// TestLabSystemd has the units of packaging in a running system. lab/recovery/systemd
// boots one for it.
func TestLabSystemd(t *testing.T) {
	c := labtest.Begin(t)
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		t.Fatal("needs systemd as init: lab/recovery/systemd")
	}
	install(t)
	labtest.Run(t, "systemctl", "start", "ublk-watch.service") // returns when it says that it is ready
	labtest.Run(t, "systemctl", "start", "ublk@scratch.service")
	id := byName(t, "scratch")
	folder := mounted(t, id)
	server := info(t, c, id).ServerPID
	ownScope(t, server)

	again := func(why string) {
		t.Helper()
		pid := kill(t, c, id)
		server = becomes(t, c, id, ctrl.Live, pid).ServerPID
		ownScope(t, server)
		if err := os.WriteFile(folder+"/file", []byte(why), 0o600); err != nil {
			t.Error(err)
		}
	}
	again("after a crash")
	time.Sleep(time.Second)
	labtest.Run(t, "systemctl", "restart", "ublk-watch.service")
	same(t, c, id, server)
	again("after a restart of the watch")
	labtest.Run(t, "systemctl", "stop", "ublk-watch.service")
	same(t, c, id, server)
	pid := kill(t, c, id)
	becomes(t, c, id, ctrl.Quiesced, 0)
	labtest.Run(t, "systemctl", "restart", "ublk@scratch.service") // cannot delete it, and recovers it
	becomes(t, c, id, ctrl.Live, pid)
	labtest.Run(t, "systemctl", "start", "ublk-watch.service")

	// The service that runs add may end, with all that it started.
	labtest.Run(t, "systemd-run", "--unit=session", "--property=Type=oneshot", "--property=RemainAfterExit=yes", os.Getenv("UBLK_BIN"), "add", "-t", "null", "--name", "other")
	other := byName(t, "other")
	_ = exec.Command("systemctl", "stop", "session.service").Run()
	same(t, c, other, info(t, c, other).ServerPID)
	run(t, "del", "other").is(t, 0)

	if out, err := exec.Command("systemctl", "stop", "ublk@scratch.service").CombinedOutput(); err == nil {
		_ = out // a stop that fails is none for systemctl
	}
	same(t, c, id, info(t, c, id).ServerPID) // mounted
	labtest.Run(t, "umount", folder)
	labtest.Run(t, "systemctl", "start", "ublk@scratch.service")
	labtest.Run(t, "systemctl", "stop", "ublk@scratch.service")
	if _, err := c.Info(t.Context(), id); err == nil {
		t.Error("the device of a unit that was stopped is still there")
	}
	labtest.Run(t, "systemctl", "stop", "ublk-watch.service")
}

// install is make install for this test.
func install(t *testing.T) {
	t.Helper()
	for _, c := range [][]string{
		{"cp", os.Getenv("UBLK_BIN"), "/usr/sbin/ublk"},
		{"cp", "../../packaging/ublk-watch.service", "../../packaging/ublk@.service", "/etc/systemd/system/"},
		{"mkdir", "-p", "/etc/ublk"},
		{"truncate", "-s", "64M", "/var/tmp/scratch.img"},
		{"systemd-analyze", "verify", "--man=no", "/etc/systemd/system/ublk-watch.service", "/etc/systemd/system/ublk@.service"},
		{"systemctl", "daemon-reload"},
	} {
		if out := labtest.Run(t, c[0], c[1:]...); strings.Contains(out, "ublk") {
			t.Errorf("%v: %s", c, out)
		}
	}
	if err := os.WriteFile("/etc/ublk/scratch.conf", []byte("OPTIONS=--type loop --file /var/tmp/scratch.img --recovery=reissue\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

func byName(t *testing.T, name string) int {
	t.Helper()
	r := run(t, "list", "--noheadings", "--raw", "-o", "ID", name).is(t, 0)
	id, err := strconv.Atoi(strings.TrimSpace(r.stdout))
	if err != nil {
		t.Fatal(r)
	}
	return id
}

// ownScope makes sure that a server is in nobody's control group but its own.
func ownScope(t *testing.T, pid int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil || !strings.Contains(string(text), fmt.Sprintf("/ublk-server-%d.scope", pid)) {
		t.Errorf("server %d is in %s%v", pid, text, err)
	}
}

// same makes sure that a device is served by the process that served it.
func same(t *testing.T, c *ctrl.Client, id, server int) {
	t.Helper()
	if now := info(t, c, id); now.State != ctrl.Live || now.ServerPID != server || unix.Kill(server, 0) != nil {
		t.Errorf("device %d is %s with server %d; it was %d", id, now.State, now.ServerPID, server)
	}
}
