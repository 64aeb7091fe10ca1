package cmd

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublk/internal/labtest"
	"ublk/internal/uapi"
	"ublk/server"
)

// mainVariable makes this test binary the program itself, as which it starts
// its helpers and servers, too.
const mainVariable = "UBLK_TEST_MAIN"

func TestMain(m *testing.M) {
	program := os.Getenv(mainVariable) != ""
	if len(os.Args) > 1 && (os.Args[1] == helperCommand || os.Args[1] == server.JobCommand) {
		program = true
	}
	if program {
		os.Exit(Main())
	}
	os.Exit(m.Run())
}

// ublk is the program with arguments, not yet started.
func ublk(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), mainVariable+"=1", "LC_ALL=C")
	return cmd
}

// execute runs the program, which must not take a minute.
func execute(t *testing.T, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := ublk(args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// labDevice adds a device that is gone when the test ends, whatever becomes of it.
func labDevice(t *testing.T, args ...string) (node, id string) {
	t.Helper()
	r := execute(t, append([]string{"add"}, args...)...)
	r.want(t, 0, "/dev/ublk")
	node = strings.TrimSpace(r.stdout)
	id = strings.TrimLeft(strings.TrimPrefix(node, "/dev/ublk"), "bc") // c: with --no-start
	t.Cleanup(func() {
		if pid := serverPID(t, id); pid > 0 {
			_ = unix.Kill(pid, unix.SIGCONT)
		}
		execute(t, "del", "--force", "--timeout", "20", id)
	})
	return node, id
}

func serverPID(t *testing.T, id string) int {
	t.Helper()
	var pid int
	_, _ = fmt.Sscan(execute(t, "list", "--noheadings", "-o", "SERVER", id).stdout, &pid)
	return pid
}

// opened makes a process that has a node open until the test ends.
func opened(t *testing.T, node string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sh", "-c", "exec 9<"+node+"; echo open; exec sleep 100")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if _, err := out.Read(make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func TestLabLife(t *testing.T) {
	labtest.Require(t)
	node, id := labDevice(t, "-t", "null", "--size", "1G", "-q", "2", "-d", "32", "--name", "life", "--recovery=reissue")
	if _, err := os.Stat(node); err != nil {
		t.Fatal(err)
	}
	row := document(t, execute(t, "list", "-J", "life"))[0]
	for name, want := range map[string]any{"name": "life", "state": "LIVE", "type": "null", "size": float64(1 << 30), "depth": 32.0, "recovery": "reissue", "node": node, "health": "healthy"} {
		if row[name] != want {
			t.Errorf("%s is %v, want %v", name, row[name], want)
		}
	}
	execute(t, "info", id).want(t, 0, "Device "+id+" (life)", "LIVE, healthy", "dev_sectors=2097152", "Queue 1 ", "I/O flusher     yes", "Statistics of the server")
	execute(t, "get-params", id).want(t, 0, "basic.dev_sectors")
	execute(t, "get-affinity", id).want(t, 0, "queue 1")
	execute(t, "add", "-t", "null", "-n", id).want(t, 7, "Device "+id+" is there already (null, LIVE, server ")
	execute(t, "add", "-t", "null", "--name", "life").want(t, 1, "choose another")
	execute(t, "serve", id).want(t, 7, "has a server")
	execute(t, "set-params", id, "dev_sectors=8").want(t, 7, "before START_DEV")
	r := execute(t, "del", id)
	r.want(t, 0)
	if _, err := os.Stat(node); err == nil || r.stdout+r.stderr != "" {
		t.Errorf("%s is left, or: %+v", node, r)
	}
	execute(t, "list", "life").want(t, 4)
	if _, err := os.Stat("/run/ublk/" + id); err == nil {
		t.Error("the state folder is left")
	}
}

func TestLabDelInUse(t *testing.T) {
	labtest.Require(t)
	node, id := labDevice(t, "-t", "null")
	opener := opened(t, node)
	execute(t, "del", id).want(t, 7, fmt.Sprintf("pid %d (sleep) has %s open", opener.Process.Pid, node))
	execute(t, "del", "--force", id).want(t, 0, "its number is free when its users close it")
	execute(t, "list").want(t, 0, "!null")
}

// TestLabFrozenServer: whatever hangs in the kernel, the program ends in time,
// and works again when the server is gone.
func TestLabFrozenServer(t *testing.T) {
	labtest.Require(t)
	node, id := labDevice(t, "-t", "null")
	pid := serverPID(t, id)
	labtest.Freeze(t, pid)
	reader := exec.Command("dd", "if="+node, "of=/dev/null", "bs=4k", "count=1", "iflag=direct")
	if err := reader.Start(); err != nil {
		t.Fatal(err)
	}
	defer reader.Wait()
	defer unix.Kill(pid, unix.SIGKILL)
	for !strings.Contains(execute(t, "list", "-o", "HEALTH", id).stdout, "stalled") {
		if t.Context().Err() != nil {
			t.Fatal("never stalled")
		}
	}
	begin := time.Now()
	execute(t, "stop", id, "--timeout", "1").want(t, 8, "is stopped by a signal", "kill -CONT")
	execute(t, "info", id).want(t, 0, "the device does not answer", "T (stopped by a signal)")
	execute(t, "get-params", id, "--timeout", "0.5").want(t, 8)
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("took %v", took)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = reader.Wait()
	execute(t, "del", id).want(t, 0)
}

func TestLabForeground(t *testing.T) {
	labtest.Require(t)
	cmd := ublk("add", "-t", "null", "--foreground")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 64)
	n, err := out.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	node := strings.TrimSpace(string(line[:n]))
	if _, err := os.Stat(node); err != nil {
		t.Error(err)
	}
	if err := errors.Join(cmd.Process.Signal(syscall.SIGINT), cmd.Wait()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(node); err == nil {
		t.Errorf("%s is left", node)
	}
}

func TestLabNoStartAndServe(t *testing.T) {
	labtest.Require(t)
	_, id := labDevice(t, "-t", "null", "--size", "1M", "--no-start")
	execute(t, "start", id).want(t, 1, "no process holds")
	execute(t, "set-params", id, "dev_sectors=4096").want(t, 0)
	execute(t, "serve", id, "-t", "null", "--size", "2M").want(t, 0, "/dev/ublkb"+id)
	execute(t, "list", "-o", "STATE,SIZE", id).want(t, 0, "LIVE", "2M")
	execute(t, "stop", id).want(t, 0, "STOP_DEV dev_id="+id+" = 0")
}

func TestLabResize(t *testing.T) {
	c := labtest.Require(t)
	labtest.RequireFeature(t, c, uapi.FlagUpdateSize)
	_, id := labDevice(t, "-t", "null", "--size", "1M")
	execute(t, "resize", id, "2M").want(t, 0)
	execute(t, "list", "-b", "-o", "SIZE", id).want(t, 0, "2097152")
	execute(t, "resize", id, "1M").want(t, 1, "--force")
	execute(t, "resize", "--force", id, "1M").want(t, 0)
}

func TestLabRecoveryCommands(t *testing.T) {
	c := labtest.Require(t)
	have, err := c.Features(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, id := labDevice(t, "-t", "null", "-r")
	if err := unix.Kill(serverPID(t, id), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for !strings.Contains(execute(t, "list", id).stdout, "QUIESCED") {
		if t.Context().Err() != nil {
			t.Fatal("never quiesced")
		}
	}
	execute(t, "info", id).want(t, 0, "QUIESCED, waiting", "which is gone")
	execute(t, "end-recovery", id).want(t, 1, "no process holds")
	if have.Has(uapi.FlagQuiesce) { // 6.12 does not begin the same recovery twice
		execute(t, "start-recovery", id).want(t, 0)
	}
	execute(t, "serve", id).want(t, 0, "/dev/ublkb"+id)
	execute(t, "list", id).want(t, 0, "LIVE")
}

func TestLabWithoutPrivileges(t *testing.T) {
	labtest.Require(t)
	node, _ := labDevice(t, "-t", "null", "--size", "1M")
	if os.Geteuid() != 0 {
		t.Skip("needs root, to give it up")
	}
	var stdout, stderr bytes.Buffer
	cmd := ublk("list")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if err := cmd.Run(); err != nil || !strings.Contains(stdout.String(), node) || !strings.Contains(stderr.String(), "only root") {
		t.Errorf("%v\n%s%s", err, &stdout, &stderr)
	}
}
