package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublk/internal/labtest"
	"ublk/internal/sysfs"
)

// adopt makes this process the parent of servers that are started from here on,
// so that their exit codes can be seen.
func adopt(t *testing.T) {
	t.Helper()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) })
}

// exit waits for the end of an adopted server.
func exit(t *testing.T, pid int) (code int) {
	t.Helper()
	var status unix.WaitStatus
	eventually(t, fmt.Sprintf("server %d ends", pid), func() bool {
		got, err := unix.Wait4(pid, &status, unix.WNOHANG, nil)
		return got == pid && err == nil
	})
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

// TestLabStopAndServe stops a device from outside and serves it again.
func TestLabStopAndServe(t *testing.T) {
	begin(t)
	adopt(t)
	_, file := ramDisk(t, 16<<20)
	d := add(t, "-t", "loop", "-f", file, "--name", "again")
	first := d.server(t)
	run(t, "serve", "again").fails(t, 7, fmt.Sprintf("ublk: serve: device %d: ", d.id), fmt.Sprint(first), "\n  To replace the server: ublk upgrade.")
	run(t, "stop", "again").prints(t, fmt.Sprintf("STOP_DEV dev_id=%d = 0\n", d.id))
	if code := exit(t, first); code != 0 {
		t.Errorf("exit code of the stopped server %d; log:\n%s", code, d.log(t).text())
	}
	run(t, "list", "--noheadings", "-o", "ID,STATE,NODE,SERVER", "again").prints(t, d.arg+" DEAD - -\n")
	run(t, "stop", "again").prints(t, fmt.Sprintf("STOP_DEV dev_id=%d = 0\n", d.id)) // idempotent

	r := run(t, "serve", "again")
	if !has(t, "PER_IO_DAEMON") {
		r.fails(t, 6, fmt.Sprintf("ublk: serve: device %d: this kernel takes no new server for a device that was started and stopped", d.id))
		run(t, "list", "--noheadings", "-o", "ID,STATE,SERVER", "again").prints(t, d.arg+" DEAD -\n")
		run(t, "del", "again").prints(t, "")
		reap()
		return
	}
	r.prints(t, d.node+"\n")
	second := d.server(t)
	labtest.Run(t, "dd", "if=/dev/zero", "of="+d.node, "bs=64k", "count=4", "oflag=direct", "status=none")
	run(t, "del", "again").prints(t, "")
	if code := exit(t, second); code != 0 {
		t.Errorf("exit code of the second server %d", code)
	}
	d.gone(t, second)
}

// reap takes the exit codes of adopted processes that nobody wants to know.
func reap() {
	for {
		if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); pid <= 0 || err != nil {
			return
		}
	}
}

// TestLabNoStart makes a device first and serves it later.
func TestLabNoStart(t *testing.T) {
	begin(t)
	d := add(t, "-t", "null", "--no-start", "-q", "2", "--size", "1G", "--name", "later")
	run(t, "list", "--noheadings", "-o", "ID,NAME,STATE,TYPE,QUEUES,SERVER,NODE", d.arg).prints(t, d.arg+" later DEAD null 2 - -\n")
	run(t, "serve", "later").prints(t, d.node+"\n")
	server := d.server(t)
	run(t, "list", "--noheadings", "-b", "-o", "ID,NAME,STATE,SIZE,SERVER", d.arg).prints(t, fmt.Sprintf("%s later LIVE 1073741824 %d\n", d.arg, server))
	run(t, "del", "later").prints(t, "")
	d.gone(t, server)

	// Nobody's yet, and deleted as such.
	d = add(t, "-t", "null", "--no-start")
	run(t, "del", d.arg).prints(t, "")
}

// TestLabOtherServer looks at, stops and deletes a device of the kernel's own
// server, which knows nothing of us.
func TestLabOtherServer(t *testing.T) {
	begin(t)
	kublk := os.Getenv("UBLK_KUBLK")
	if kublk == "" {
		t.Fatal("UBLK_KUBLK does not name kublk (lab/peers)")
	}
	for _, by := range []string{"stop", "del"} {
		labtest.Run(t, kublk, "add", "-t", "null", "-q", "2", "-d", "64", "-n", "5")
		d := device{5, "5", "/dev/ublkb5"}
		t.Cleanup(func() { _ = exec.Command(kublk, "del", "-n", "5").Run() })
		server := d.server(t)
		run(t, "list").prints(t, "ID STATE TYPE SIZE QUEUES DEPTH SERVER RECOVERY NODE        BACKING\n"+
			fmt.Sprintf(" 5 LIVE  -    250G      2    64 %6d none     /dev/ublkb5 -\n", server))
		run(t, "info", "5").ok(t).has(t, "Device 5\n", "LIVE, healthy", fmt.Sprintf("  Process         %d (kublk)\n", server), kublk+" add -t null", "  Queue 1         CPUs ", "dev_sectors=524288000")
		run(t, "serve", "5").fails(t, 7, "ublk: serve: device 5: ", fmt.Sprint(server))
		if by == "stop" {
			run(t, "stop", "5").prints(t, "STOP_DEV dev_id=5 = 0\n")
			eventually(t, "kublk ends", func() bool { return !alive(server) })
			run(t, "list", "--noheadings", "-o", "ID,STATE,SERVER,NODE").prints(t, "5 DEAD - -\n")
			run(t, "serve", "5").fails(t, 1, "ublk: serve: device 5: nothing is remembered of it", "--type TYPE")
		}
		run(t, "del", "5").prints(t, "")
		eventually(t, "kublk ends", func() bool { return !alive(server) })
		if d.exists() {
			t.Error("the device is there")
		}
	}
}

// TestLabFrozenServer has a server that answers nothing any more: every command
// ends in time, and works once the server goes on, or is dead.
func TestLabFrozenServer(t *testing.T) {
	begin(t)
	for _, s := range []syscall.Signal{syscall.SIGCONT, syscall.SIGKILL} {
		t.Run(s.String(), func(t *testing.T) {
			d := add(t, "-t", "null")
			server := d.server(t)
			labtest.Freeze(t, server)
			defer syscall.Kill(server, s)
			read := start(t, "dd", "if="+d.node, "of=/dev/null", "bs=4k", "count=1", "iflag=direct", "status=none")
			d.heldBy(t, sysfs.UserOpener, "dd")
			eventually(t, "a read is in flight", func() bool {
				stat, err := sysfs.New("/").Stat(d.id)
				return err == nil && stat.InFlight > 0
			})

			frozen := fmt.Sprintf("its server %d (ublk) is stopped by a signal: kill -CONT %d, or kill -KILL %d", server, server, server)
			r := run(t, "del", "--force", "--timeout", "2", d.arg).fails(t, 8, fmt.Sprintf("ublk: del: device %d: STOP_DEV: no answer in time\n", d.id),
				"\n  The command goes on in the kernel. It may wait for somebody: "+frozen)
			if r.took > 6*time.Second {
				t.Errorf("it took %v", r.took)
			}
			run(t, "list", "--noheadings", "-o", "ID,STATE,SERVER", d.arg).prints(t, fmt.Sprintf("%s LIVE %d\n", d.arg, server))
			if s == syscall.SIGCONT {
				testOthersGoOn(t, d, server)
			}
			_ = syscall.Kill(server, s)
			r = run(t, "del", "--force", d.arg)
			if r.code != 0 && r.code != 4 {
				t.Errorf("after %v: %v", s, r)
			}
			d.gone(t, server)
			err := read.Wait()
			if s == syscall.SIGKILL && err == nil {
				t.Error("the read that the dead server held succeeded")
			}
			if left := commandsOf(); left != "" {
				t.Errorf("commands that hang: %s", left)
			}
		})
	}
}

// testOthersGoOn has a stop of d that hangs, and what goes on meanwhile.
func testOthersGoOn(t *testing.T, d device, server int) {
	run(t, "info", d.arg).ok(t).has(t, fmt.Sprintf("Process         %d (ublk)", server), "T (stopped by a signal)")
	run(t, "get-params", "--timeout", "1", d.arg).fails(t, 8, "GET_PARAMS: no answer in time")
	r := run(t, "add", "-t", "null", "-n", "77") // a stop does not hold up others
	if r.code != 0 {
		t.Errorf("another device meanwhile: %v", r)
	}
	run(t, "del", "77").ok(t)
}

// commandsOf names processes of the program that wait, when all should be over.
func commandsOf() string {
	var left []string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		left = nil
		for _, pid := range processes("ublk") {
			line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			left = append(left, fmt.Sprintf("%d %s", pid, strings.ReplaceAll(string(line), "\x00", " ")))
		}
		if len(left) == 0 {
			break
		}
	}
	return strings.Join(left, ", ")
}
