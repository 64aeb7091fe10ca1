// Package e2e tests the program as a person uses it: by its command line, on a
// real driver. The program is $UBLK_BIN. The tests change the machine (modules,
// sysctls, every ublk device), so they run in the lab alone.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ublk/ctrl"
	"ublk/internal/labtest"
	"ublk/internal/sysfs"
)

// stateRoot is where the program keeps what it remembers of devices.
const stateRoot = "/run/ublk"

// patience bounds every wait. An emulated guest is slow.
const patience = 20 * time.Second

// begin is the first line of every test: it makes sure of program, driver and
// a machine without devices, and that the test leaves it like that.
func begin(t *testing.T) {
	t.Helper()
	labtest.Program(t)
	if left := leftovers(); left != "" {
		t.Fatalf("before the test: %s", left)
	}
	t.Cleanup(func() {
		if t.Failed() {
			removeAll()
		}
		eventually(t, "nothing is left behind", func() bool { return leftovers() == "" })
		if left := leftovers(); left != "" {
			t.Errorf("left behind: %s", left)
			removeAll()
		}
	})
}

// leftovers names devices, state and processes of ublk's, "" if there are none.
func leftovers() string {
	var left []string
	if ids, err := sysfs.New("/").Devices(); err == nil && len(ids) > 0 {
		left = append(left, fmt.Sprintf("devices %v", ids))
	}
	entries, _ := os.ReadDir(stateRoot)
	for _, e := range entries {
		left = append(left, filepath.Join(stateRoot, e.Name()))
	}
	for _, pid := range processes("ublk") {
		left = append(left, fmt.Sprintf("process %d", pid))
	}
	return strings.Join(left, ", ")
}

// processes returns the processes whose program is called name.
func processes(name string) []int {
	folders, _ := filepath.Glob("/proc/[0-9]*")
	var pids []int
	for _, folder := range folders {
		line, err := os.ReadFile(folder + "/cmdline")
		if err != nil {
			continue
		}
		program, _, _ := strings.Cut(string(line), "\x00")
		if filepath.Base(program) == name || program == os.Getenv("UBLK_BIN") {
			pid, _ := strconv.Atoi(filepath.Base(folder))
			pids = append(pids, pid)
		}
	}
	return pids
}

// removeAll cleans up after a test that failed, by the shortest way.
func removeAll() {
	for _, pid := range processes("ublk") {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	_ = exec.Command(os.Getenv("UBLK_BIN"), "del", "--all", "--force", "--timeout", "5").Run()
	entries, _ := os.ReadDir(stateRoot)
	for _, e := range entries {
		_ = os.RemoveAll(filepath.Join(stateRoot, e.Name()))
	}
}

// result is what one run of the program left.
type result struct {
	line           string // the command line
	code           int    // 128+n after signal n, as in a shell
	stdout, stderr string
	took           time.Duration
}

// run runs the program.
func run(t testing.TB, args ...string) result {
	t.Helper()
	return finish(t, command(t, args...))
}

// command is a command line of the program, not started yet. One that takes
// too long is killed.
func command(t testing.TB, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	t.Cleanup(cancel)
	return exec.CommandContext(ctx, os.Getenv("UBLK_BIN"), args...)
}

// finish runs a command to its end.
func finish(t testing.TB, cmd *exec.Cmd) result {
	t.Helper()
	return launch(t, cmd)()
}

// launch starts a command; wait returns when it has ended.
func launch(t testing.TB, cmd *exec.Cmd) (wait func() result) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() result {
		t.Helper()
		err := cmd.Wait()
		r := result{line: "ublk " + strings.Join(cmd.Args[1:], " "), stdout: stdout.String(), stderr: stderr.String(), took: time.Since(begun)}
		r.code = exitCode(t, r.line, err)
		return r
	}
}

func exitCode(t testing.TB, line string, err error) int {
	t.Helper()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case !errors.As(err, &exit):
		t.Fatalf("%s: %v", line, err)
	}
	status := exit.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

func (r result) String() string {
	return fmt.Sprintf("%s: exit code %d after %v\nstdout: %sstderr: %s", r.line, r.code, r.took.Round(time.Millisecond), r.stdout, r.stderr)
}

// ok is a run that succeeded and had nothing to say beside its data, unless it
// took long, which an emulated guest does now and then.
func (r result) ok(t testing.TB) result {
	t.Helper()
	talk := false
	for line := range strings.Lines(r.stderr) {
		talk = talk || !strings.Contains(line, ": waiting for ")
	}
	if r.code != 0 || talk {
		t.Errorf("want success and a silent stderr; %v", r)
	}
	return r
}

// prints is ok with exactly this data.
func (r result) prints(t testing.TB, stdout string) result {
	t.Helper()
	if r.ok(t); r.stdout != stdout {
		t.Errorf("want stdout %q; %v", stdout, r)
	}
	return r
}

// has is a run with all of these texts on stdout.
func (r result) has(t testing.TB, texts ...string) result {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(r.stdout, text) {
			t.Errorf("stdout lacks %q; %v", text, r)
		}
	}
	return r
}

// fails is a run that ends with a code, no data, and all of these texts on stderr.
func (r result) fails(t testing.TB, code int, texts ...string) result {
	t.Helper()
	if r.code != code || r.stdout != "" {
		t.Errorf("want exit code %d and no data; %v", code, r)
	}
	return r.says(t, texts...)
}

// says is a run with all of these texts on stderr, where every line is ours.
func (r result) says(t testing.TB, texts ...string) result {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(r.stderr, text) {
			t.Errorf("stderr lacks %q; %v", text, r)
		}
	}
	if r.stderr != "" && !strings.HasPrefix(r.stderr, "ublk: ") {
		t.Errorf("stderr does not begin with the program's name; %v", r)
	}
	return r
}

func alive(pid int) bool {
	process, err := sysfs.New("/").ProcessStat(pid)
	return err == nil && process.State != 'Z'
}

// eventually waits until something is so.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); {
		if time.Now().After(deadline) {
			t.Errorf("it did not come to be that %s", what)
			return
		}
		time.Sleep(10 * time.Millisecond) // nothing announces all of what is waited for
	}
}

// start starts a program that ends with the test at the latest.
func start(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(name, args...)
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

// holds waits until somebody uses a device in a way, and returns who.
func (d device) heldBy(t testing.TB, kind sysfs.UserKind, comm string) sysfs.User {
	t.Helper()
	var found sysfs.User
	eventually(t, fmt.Sprintf("%s is a %s of device %d", comm, kind, d.id), func() bool {
		users, _, err := sysfs.New("/").Users(d.id)
		i := slices.IndexFunc(users, func(u sysfs.User) bool { return u.Kind == kind && (comm == "" || u.Command == comm) })
		if err == nil && i >= 0 {
			found = users[i]
		}
		return err == nil && i >= 0
	})
	return found
}

// features asks the driver.
func features(t *testing.T) ctrl.Features {
	t.Helper()
	c, err := ctrl.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	have, err := c.Features(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return have
}

// has says whether this kernel has a feature, by its name without UBLK_F_.
func has(t *testing.T, name string) bool {
	t.Helper()
	f, ok := ctrl.LookupFeature(name)
	if !ok {
		t.Fatalf("no feature is called %s", name)
	}
	return features(t).Has(f.Flag)
}

// ramDisk is a file system of the kernel's memory, mounted, with file of a size on it.
func ramDisk(t testing.TB, bytes int64) (folder, file string) {
	t.Helper()
	if _, err := os.Stat("/dev/ram0"); err != nil {
		labtest.Run(t, "modprobe", "brd", "rd_nr=2", "rd_size=131072")
		labtest.Run(t, "udevadm", "settle")
	}
	folder = t.TempDir()
	labtest.Run(t, "mkfs.ext4", "-q", "-F", "/dev/ram0")
	labtest.Run(t, "mount", "/dev/ram0", folder)
	t.Cleanup(func() { labtest.Run(t, "umount", folder) })
	file = filepath.Join(folder, "disk")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(bytes); err != nil {
		t.Fatal(err)
	}
	return folder, file
}
