package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"ublk/internal/labtest"
	"ublk/internal/sysfs"
)

// kill ends a server the hard way and waits for its end.
func kill(t *testing.T, pid int) {
	t.Helper()
	_ = syscall.Kill(pid, syscall.SIGKILL)
	eventually(t, fmt.Sprintf("process %d is dead", pid), func() bool { return !alive(pid) })
}

// TestLabServerProcess is design rule 8: what a process must be that stands
// behind a disk.
func TestLabServerProcess(t *testing.T) {
	begin(t)
	d := add(t, "-t", "null", "-q", "4")
	pid := d.server(t)
	labtest.Run(t, "dd", "if="+d.node, "of=/dev/null", "bs=4k", "count=64", "iflag=direct", "status=none")
	proc := func(name string) string { return filepath.Join("/proc", strconv.Itoa(pid), name) }
	read := func(name string) string {
		t.Helper()
		text, err := os.ReadFile(proc(name))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(text))
	}
	threads, err := sysfs.New("/").Threads(pid)
	if err != nil || len(threads) < 5 {
		t.Fatalf("%d threads, %v", len(threads), err)
	}
	for _, thread := range threads {
		if !thread.IOFlusher() {
			t.Errorf("thread %d (%s) has no IO_FLUSHER: flags %#x", thread.TID, thread.Comm, thread.Flags)
		}
	}
	if score := read("oom_score_adj"); score != "-1000" {
		t.Errorf("oom_score_adj %s", score)
	}
	if comm := read("comm"); comm != "ublk" {
		t.Errorf("comm %q", comm)
	}
	for name, want := range map[string]string{"fd/0": "/dev/null", "fd/1": "/dev/null", "fd/2": filepath.Join(stateRoot, d.arg, "log"), "cwd": "/"} {
		if got, err := os.Readlink(proc(name)); err != nil || got != want {
			t.Errorf("%s is %q, %v; want %q", name, got, err, want)
		}
	}
	if own, err := os.Readlink("/proc/self/ns/mnt"); err != nil || own == must(os.Readlink(proc("ns/mnt"))) {
		t.Errorf("mount namespace %s, %v", own, err)
	}
	for line := range strings.Lines(read("mountinfo")) {
		if strings.Contains(line, " shared:") {
			t.Errorf("a mount of the server's shows outside: %s", line)
		}
	}
	if group := must(unix.Getpgid(pid)); group != pid {
		t.Errorf("process group %d", group)
	}
	stat := strings.Fields(read("stat"))
	if terminal := stat[6]; terminal != "0" {
		t.Errorf("terminal %s", terminal)
	}
	var soft, hard string
	for line := range strings.Lines(read("limits")) {
		if rest, ok := strings.CutPrefix(line, "Max open files"); ok {
			fields := strings.Fields(rest)
			soft, hard = fields[0], fields[1]
		}
	}
	if soft != hard || soft == "" {
		t.Errorf("open files: soft limit %q, hard limit %q", soft, hard)
	}
	locked := 0
	for line := range strings.Lines(read("status")) {
		if rest, ok := strings.CutPrefix(line, "VmLck:"); ok {
			locked, _ = strconv.Atoi(strings.Fields(rest)[0])
		}
	}
	if locked == 0 {
		t.Error("no memory is locked")
	}
	_, code, found := strings.Cut(read("smaps"), " r-xp ")
	_, code, _ = strings.Cut(code, "\nLocked:")
	if size := strings.Fields(code); !found || len(size) == 0 || size[0] == "0" {
		t.Error("the program is not locked in memory")
	}
	for _, file := range []string{"config", "log", "stats", "ctl"} {
		info, err := os.Stat(filepath.Join(stateRoot, d.arg, file))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", file, info.Mode(), err)
		}
	}
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// TestLabTerminal adds a device in a terminal, presses Ctrl-C and closes it: the
// server does not care.
func TestLabTerminal(t *testing.T) {
	begin(t)
	term := openTerminal(t, 80, 24)
	term.keys("$UBLK_BIN add -t null -n 5", "Enter")
	term.shows("/dev/ublkb5")
	d := device{id: 5, node: "/dev/ublkb5", arg: "5"}
	t.Cleanup(func() { run(t, "del", d.arg).ok(t) })
	server := d.server(t)
	if stat := strings.Fields(string(must(os.ReadFile(fmt.Sprintf("/proc/%d/stat", server))))); stat[6] != "0" {
		t.Errorf("the server's terminal is %s", stat[6])
	}
	term.keys("C-c")
	term.tmux("respawn-pane", "-k", "-t", "t", "sh")
	run(t, "list", "5").ok(t)
	labtest.Run(t, "dd", "if="+d.node, "of=/dev/null", "bs=4k", "count=1", "iflag=direct")
	if now := d.server(t); now != server {
		t.Errorf("server %d became %d", server, now)
	}
}

// TestLabMountNamespace umounts a file system that was mounted when the server
// started: its device is free, the server's namespace does not pin it.
func TestLabMountNamespace(t *testing.T) {
	begin(t)
	ramDisk(t, 1<<20)
	point := t.TempDir()
	labtest.Run(t, "mkfs.ext4", "-q", "-F", "/dev/ram1")
	labtest.Run(t, "mount", "/dev/ram1", point)
	d := add(t, "-t", "null")
	server := d.server(t)
	if mounts := string(must(os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", server)))); !strings.Contains(mounts, " "+point+" ") {
		t.Errorf("the server does not have the mount, so the test shows nothing:\n%s", mounts)
	}
	labtest.Run(t, "umount", point)
	f, err := os.OpenFile("/dev/ram1", os.O_RDWR|os.O_EXCL, 0)
	if err != nil {
		t.Fatalf("the device is not free: %v", err)
	}
	f.Close()
}

// TestLabPrivateMounts does so where the root is a private mount, as in many
// containers: a namespace of its own would never learn of the umount, so the
// server has none.
func TestLabPrivateMounts(t *testing.T) {
	begin(t)
	ramDisk(t, 1<<20)
	labtest.Run(t, "mkfs.ext4", "-q", "-F", "/dev/ram1")
	script := `set -e; mount /dev/ram1 "$0"; ublk=$1; node=$($ublk add -t null)
readlink /proc/self/ns/mnt "/proc/$($ublk list --noheadings --raw -o SERVER "$node")/ns/mnt"; umount "$0"`
	spaces := strings.Fields(labtest.Run(t, "unshare", "--mount", "--propagation", "private", "sh", "-c", script, t.TempDir(), os.Getenv("UBLK_BIN")))
	defer func() { run(t, "del", "--all").ok(t) }()
	if len(spaces) != 2 || spaces[0] != spaces[1] {
		t.Errorf("caller and server are in the mount namespaces %v", spaces)
	}
	f, err := os.OpenFile("/dev/ram1", os.O_RDWR|os.O_EXCL, 0)
	if err != nil {
		t.Fatalf("the device is not free: %v", err)
	}
	f.Close()
}

// TestLabEarlyDeath has servers that fail before the device is LIVE: add tells
// why, and nothing stays.
func TestLabEarlyDeath(t *testing.T) {
	begin(t)
	_, file := ramDisk(t, 16<<20)
	short := filepath.Join(filepath.Dir(file), "short")
	if err := os.WriteFile(short, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		line string
		code int
		want string
	}{
		{"add -t loop -f /nonexistent", 1, "/nonexistent: no such file or directory\n"},
		{"add -t loop -f /tmp", 1, "/tmp: "},
		{"add -t loop -f " + short, 1, short + ": 5 bytes at offset 0 are less than one block"},
		{"add -t loop -f " + file + " --offset 1000", 1, "offset 1000 is not a multiple"},
		{"add -t loop -f /dev/ram0", 7, "/dev/ram0: device or resource busy"}, // mounted
		{"add -t null --cpus 900", 1, "cpus [900]: none of them can be used here\n"},
		{"add -t null --data=none --need-get-data", 1, "need-get-data"},
		{"add -t null --data=zero-copy", 1, "this target has only"},
	} {
		t.Run(c.line, func(t *testing.T) { run(t, strings.Fields(c.line)...).fails(t, c.code, "ublk: add: ", c.want) })
	}
	// A server that is killed before it could say anything.
	t.Run("killed", func(t *testing.T) {
		cmd := command(t, "add", "-t", "null", "-n", "9")
		wait := launch(t, cmd)
		eventually(t, "the server is there", func() bool {
			for _, pid := range processes("ublk") {
				line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
				if strings.HasPrefix(string(line), "ublk\x00serve-job") {
					return syscall.Kill(pid, syscall.SIGKILL) == nil
				}
			}
			return false
		})
		r := wait()
		if r.code == 0 { // it was LIVE before
			t.Skip("killed too late")
		}
		r.fails(t, 1, "ublk: add: the serving process died (signal: killed)")
		run(t, "del", "--all").ok(t)
	})
}
