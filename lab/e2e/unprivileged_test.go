package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"ublk/internal/labtest"
)

// TestLabUnprivileged is a device of an ordinary user's, whom udev gives the
// nodes, from add to del.
func TestLabUnprivileged(t *testing.T) {
	begin(t)
	const rules = "/run/udev/rules.d/99-ublk-e2e.rules"
	chmod(t, "/dev/ublk-control", 0o666)
	t.Cleanup(func() {
		chmod(t, "/dev/ublk-control", 0o600)
		_ = os.Remove(rules)
		labtest.Run(t, "udevadm", "control", "--reload")
	})
	home, err := os.MkdirTemp("/run", "e2e") // not below a folder that only root can enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(home) })
	if err := os.Chown(home, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	user := func(args ...string) result {
		t.Helper()
		cmd := asNobody(command(t, args...))
		cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+home)
		return finish(t, cmd)
	}

	// Until there is a rule nobody can use such a device.
	r := user("add", "-t", "null", "--unprivileged", "-n", "6")
	r.fails(t, 5, "ublk: add: ", "device 6: no udev rule has given /dev/ublkc6 to user 65534 (permission denied): the device stays until root deletes it\n")
	run(t, "del", "6").prints(t, "")

	if err := os.MkdirAll(filepath.Dir(rules), 0o755); err != nil {
		t.Fatal(err)
	}
	text := `KERNEL=="ublkc*|ublkb*", OWNER="65534", GROUP="65534"` + "\n"
	if err := os.WriteFile(rules, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	labtest.Run(t, "udevadm", "control", "--reload")
	user("add", "-t", "null").fails(t, 5, "ublk: add: ", "ADD_DEV: ", "not permitted")
	user("add", "-t", "null", "--unprivileged", "--user-copy").fails(t, 1, "unprivileged devices only copy")
	r = user("add", "-t", "null", "--unprivileged", "--size", "1G", "--name", "mine", "-n", "6")
	if r.code != 0 || r.stdout != "/dev/ublkb6\n" {
		run(t, "del", "--all", "--force")
		t.Fatal(r)
	}
	d := device{6, "6", "/dev/ublkb6"}
	t.Cleanup(func() {
		if d.exists() {
			run(t, "del", "--force", "6")
		}
	})
	server := d.server(t)
	if folder, err := os.Stat(filepath.Join(home, "ublk", "6", "log")); err != nil {
		t.Errorf("the state folder is not the user's: %v, %v", folder, err)
	}
	line := fmt.Sprintf("6 LIVE null %d 65534\n", server)
	if r := user("list", "--noheadings", "-o", "ID,STATE,TYPE,SERVER,UID", "mine"); r.stdout != line || r.code != 0 {
		t.Errorf("want %q; %v", line, r)
	}
	user("info", "6").has(t, "UBLK_F_UNPRIVILEGED_DEV\n", "dev_sectors=2097152")
	user("get-params", "6").has(t, "dev_sectors")
	// To root it is somebody else's.
	run(t, "list", "--noheadings", "-o", "ID,STATE,TYPE,UID").prints(t, "6 LIVE - 65534\n")
	read := exec.Command("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "dd", "if="+d.node, "of=/dev/null", "bs=64k", "count=1", "status=none")
	if out, err := read.CombinedOutput(); err != nil {
		t.Errorf("reading it: %v: %s", err, out)
	}
	if r := user("del", "mine"); r.code != 0 || r.stdout != "" {
		t.Error(r)
	}
	eventually(t, "device and server are gone", func() bool { return !d.exists() && !alive(server) })
	if left, _ := filepath.Glob(home + "/ublk/*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}
