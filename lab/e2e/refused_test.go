package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"ublk/internal/labtest"
)

// asNobody makes the program run as a user without any privilege.
func asNobody(cmd *exec.Cmd) *exec.Cmd {
	cmd.Args = append([]string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"}, append([]string{cmd.Path}, cmd.Args[1:]...)...)
	cmd.Path = "/usr/bin/setpriv"
	return cmd
}

// TestLabNoPermission is a user who may not use the driver.
func TestLabNoPermission(t *testing.T) {
	begin(t)
	d := add(t, "-t", "null", "--name", "roots")
	for _, line := range []string{"add -t null", "del " + d.arg, "info " + d.arg, "get-params " + d.arg, "stop " + d.arg, "get-features"} {
		r := finish(t, asNobody(command(t, strings.Fields(line)...)))
		if line == "info "+d.arg { // tells what sysfs shows
			if r.code != 0 || !strings.Contains(r.stdout, "/dev/ublkb"+d.arg) || !strings.Contains(r.stderr, "the driver tells only root") {
				t.Errorf("info of a user's: %v", r)
			}
			continue
		}
		r.fails(t, 5, "ublk: cannot open /dev/ublk-control: permission denied\n", "\n  Only root may use the driver here. Try it with sudo.")
	}
	r := finish(t, asNobody(command(t, "list", "-J")))
	if r.code != 0 || strings.Count(r.stderr, "\n") != 1 || !strings.Contains(r.stdout, `"queues": null`) || !strings.Contains(r.stdout, fmt.Sprintf(`"id": %d`, d.id)) {
		t.Errorf("list of a user's: %v", r)
	}
}

// TestLabNoDriver has every command say what is missing.
func TestLabNoDriver(t *testing.T) {
	begin(t)
	eventually(t, "the module can be removed", func() bool { return exec.Command("rmmod", "ublk_drv").Run() == nil })
	defer func() {
		labtest.Run(t, "modprobe", "ublk_drv")
		labtest.Run(t, "udevadm", "settle")
	}()
	for _, line := range []string{"add -t null", "list", "list 0", "info 0", "del 0", "del --all", "serve 0", "get-features", "features", "resize 0 1G"} {
		run(t, strings.Fields(line)...).fails(t, 6, "ublk: cannot open /dev/ublk-control: no such file or directory\n",
			"\n  The ublk driver is not loaded. Try: modprobe ublk_drv  (CONFIG_BLK_DEV_UBLK, Linux 6.0 or newer)\n")
	}
}

// TestLabNoRing is a machine whose administrator has disabled io_uring.
func TestLabNoRing(t *testing.T) {
	begin(t)
	d := add(t, "-t", "null")
	const setting = "/proc/sys/kernel/io_uring_disabled"
	set := func(value string) {
		t.Helper()
		if err := os.WriteFile(setting, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	set("2")
	t.Cleanup(func() { set("0") }) // before the device's
	for _, line := range []string{"add -t null", "list", "info " + d.arg, "del " + d.arg, "stop " + d.arg, "get-features", "add -t null --no-start", "serve " + d.arg} {
		run(t, strings.Fields(line)...).fails(t, 6, "io_uring_setup: operation not permitted\n",
			"\n  io_uring is disabled on this machine (kernel.io_uring_disabled=2). Try: sysctl kernel.io_uring_disabled=0\n")
	}
	set("0")
	run(t, "list", "--noheadings", "-o", "ID,STATE").prints(t, d.arg+" LIVE\n")
}

// TestLabFeatures uses features that came later than the oldest kernel of the
// lab: they work, or are refused by name before anything is done.
func TestLabFeatures(t *testing.T) {
	begin(t)
	_, file := ramDisk(t, 16<<20)
	for _, c := range []struct{ feature, since, line string }{
		{"BATCH_IO", "7.0", "add -t null --batch"},
		{"USER_RECOVERY_FAIL_IO", "6.13", "add -t null --recovery=fail"},
		{"AUTO_BUF_REG", "6.16", "add -t loop -f " + file + " --data=auto-reg"},
		{"SUPPORT_ZERO_COPY", "6.15", "add -t loop -f " + file + " --zero-copy"},
		{"NO_AUTO_PART_SCAN", "7.0", "add -t null --no-partition-scan"},
	} {
		t.Run(c.feature, func(t *testing.T) {
			if has(t, c.feature) {
				d := add(t, strings.Fields(c.line)[1:]...)
				run(t, "info", d.arg).ok(t).has(t, " UBLK_F_"+c.feature+"\n")
				run(t, "del", d.arg).prints(t, "")
				return
			}
			for _, more := range []string{"", " --dry-run", " --no-start"} {
				run(t, strings.Fields(c.line+more)...).fails(t, 6, "ublk: add: ", "UBLK_F_"+c.feature, "Linux "+c.since, "\n  ").says(t, "ublk features")
			}
		})
	}
	// These need a device to be refused for.
	d := add(t, "-t", "null", "--size", "1G", "--recovery")
	for _, c := range []struct{ feature, since, line, command string }{
		{"UPDATE_SIZE", "6.16", "resize " + d.arg + " 2G", "UPDATE_SIZE"},
		{"UPDATE_SIZE", "6.16", "update-size " + d.arg + " 1G", "UPDATE_SIZE"},
		{"SAFE_STOP_DEV", "7.0", "stop --safe " + d.arg, "TRY_STOP_DEV"},
		{"QUIESCE", "6.16", "quiesce " + d.arg, "QUIESCE_DEV"},
	} {
		if !has(t, c.feature) {
			run(t, strings.Fields(c.line)...).fails(t, 6, fmt.Sprintf("%s: this kernel has no %s (Linux %s or newer)\n  ", c.command, c.command, c.since))
		}
	}
}
