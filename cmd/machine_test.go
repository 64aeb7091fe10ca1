package cmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/internal/ctrldev"
	"ublk/internal/ctrldev/fake"
	"ublk/internal/rundir"
	"ublk/internal/sysfs"
	"ublk/internal/uapi"
	"ublk/server"
)

// machine is a fake driver with the /sys and /proc that would go with it, and a
// command line that runs on them.
type machine struct {
	t     testing.TB
	drv   *fake.Driver
	root  string // of /sys and /proc
	state rundir.Root
	euid  int
	stdin string
	token uint64 // of devices that add makes

	openErr error // of the control node
	spawned []server.Job
	spawn   func(server.Job) (*server.Started, error)
	most    int // devices that sysfs can show

	mu      sync.Mutex   // of the files and of deleted
	deleted map[int]bool // devices whose nodes are gone while somebody holds them
}

// result is what a command line did.
type result struct {
	code           int
	stdout, stderr string
}

func newMachine(t testing.TB, o fake.Options) *machine {
	t.Helper()
	m := &machine{t: t, drv: fake.New(o), root: t.TempDir(), state: rundir.Root{Path: filepath.Join(t.TempDir(), "ublk")}, deleted: map[int]bool{}, most: 8}
	t.Setenv("UBLK_RUNDIR", m.state.Path)
	m.write("proc/uptime", "1000.00 900.00\n")
	m.write("proc/swaps", "Filename Type Size Used Priority\n")
	m.write("sys/class/misc/ublk-control/dev", "10:120\n")
	m.mkdir("sys/class/ublk-char")
	m.mkdir("sys/block")
	return m
}

// run runs one command line.
func (m *machine) run(args ...string) result {
	m.t.Helper()
	var stdout, stderr bytes.Buffer
	m.sync()
	a := m.app()
	a.stdout, a.stderr = &stdout, &serialWriter{w: &stderr}
	code := a.run(args)
	return result{code, stdout.String(), stderr.String()}
}

func (m *machine) app() *app {
	return &app{
		stdin: strings.NewReader(m.stdin), stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}, getenv: func(string) string { return "" },
		times: times{patience: 200 * time.Millisecond, udev: 500 * time.Millisecond, params: 500 * time.Millisecond},
		euid:  m.euid, machine: m.root, fs: sysfs.New(m.root), state: m.state,
		open: func() (*ctrl.Client, error) {
			if m.openErr != nil {
				return nil, m.openErr
			}
			return ctrl.New(&shown{m}), nil
		},
		spawn: func(_ context.Context, job server.Job) (*server.Started, error) {
			m.spawned = append(m.spawned, job)
			return m.spawn(job)
		},
		foreground: func(job server.Job) error {
			m.spawned = append(m.spawned, job)
			return nil
		},
	}
}

// shown is the fake driver with a sysfs that follows it.
type shown struct{ m *machine }

func (s *shown) Submit(ctx context.Context, c *ctrldev.Command) (int32, error) {
	res, err := s.m.drv.Submit(ctx, c)
	s.m.mu.Lock()
	switch c.Op {
	case uapi.CmdDelDev, uapi.CmdDelDevAsync:
		s.m.deleted[int(c.DevID)] = err == nil || ctx.Err() != nil
	case uapi.CmdAddDev:
		s.m.deleted = map[int]bool{}
	}
	s.m.mu.Unlock()
	s.m.sync()
	return res, err
}

func (s *shown) Close() error { return nil }

// sync makes sysfs show what the driver has.
func (m *machine) sync() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id := range m.most {
		char := fmt.Sprintf("sys/class/ublk-char/ublkc%d", id)
		block := fmt.Sprintf("sys/block/ublkb%d", id)
		info, ok := m.drv.Device(id)
		if !ok || m.deleted[id] {
			m.remove(char)
			m.remove(block)
			continue
		}
		m.write(char+"/dev", fmt.Sprintf("244:%d\n", id))
		if info.State == uapi.StateDead {
			m.remove(block)
			continue
		}
		params, _ := m.drv.Stored(id)
		m.write(block+"/dev", fmt.Sprintf("259:%d\n", id))
		m.write(block+"/size", fmt.Sprintf("%d\n", params.Basic.DevSectors))
		m.write(block+"/ro", "0\n")
		m.write(block+"/queue/logical_block_size", "512\n")
		m.write(block+"/stat", strings.Repeat("0 ", 17)+"\n")
		m.write(block+"/inflight", "0 0\n")
	}
}

func (m *machine) write(name, content string) {
	m.t.Helper()
	file := filepath.Join(m.root, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(content), 0o644)); err != nil {
		m.t.Error(err)
	}
}

func (m *machine) mkdir(name string) {
	m.t.Helper()
	if err := os.MkdirAll(filepath.Join(m.root, name), 0o755); err != nil {
		m.t.Error(err)
	}
}

func (m *machine) link(name, target string) {
	m.t.Helper()
	m.mkdir(filepath.Dir(name))
	m.remove(name)
	if err := os.Symlink(target, filepath.Join(m.root, name)); err != nil {
		m.t.Error(err)
	}
}

func (m *machine) remove(name string) {
	if err := os.RemoveAll(filepath.Join(m.root, name)); err != nil {
		m.t.Error(err)
	}
}

// process makes a process, in a state as ps shows it.
func (m *machine) process(pid int, comm string, state byte) {
	folder := fmt.Sprintf("proc/%d", pid)
	m.write(folder+"/stat", fmt.Sprintf("%d (%s) %c 1%s\n", pid, comm, state, strings.Repeat(" 0", 50)))
	m.write(folder+"/status", "Uid:\t0\t0\t0\t0\n")
	m.write(folder+"/cmdline", comm+"\x00")
	m.mkdir(folder + "/fd")
}

// opener makes a process that has a device's disk open, until its end is called.
func (m *machine) opener(pid int, comm string, id int) (end func()) {
	m.process(pid, comm, 'S')
	m.link(fmt.Sprintf("proc/%d/fd/3", pid), fmt.Sprintf("/dev/ublkb%d", id))
	m.must(m.drv.OpenBlock(id))
	return func() {
		m.remove(fmt.Sprintf("proc/%d", pid))
		m.must(m.drv.CloseBlock(id))
	}
}

// server makes a process that has opened a device's char device and fetched.
func (m *machine) server(pid, id int) {
	m.process(pid, "server", 'S')
	m.link(fmt.Sprintf("proc/%d/fd/4", pid), "anon_inode:[io_uring]")
	m.write(fmt.Sprintf("proc/%d/fdinfo/4", pid), fmt.Sprintf("UserFiles:\t1\n    0: /dev/ublkc%d\n", id))
	m.must(m.drv.OpenChar(id, pid), m.drv.FetchAll(id))
}

// add makes a device with parameters, without a server.
func (m *machine) add(flags uint64) int {
	m.t.Helper()
	client := ctrl.New(m.drv)
	info, err := client.Add(m.t.Context(), ctrl.AddRequest{ID: -1, Queues: 2, Depth: 4, MaxIOBytes: 512 << 10, Flags: flags, ServerFlags: m.token})
	m.must(err)
	m.mu.Lock()
	delete(m.deleted, info.ID)
	m.mu.Unlock()
	m.must(client.SetParams(m.t.Context(), info.ID, ctrl.Params{Basic: &ctrl.BasicParams{
		LogicalBlockShift: 9, PhysicalBlockShift: 12, IOMinShift: 12, IOOptShift: 12, MaxSectors: 1024, DevSectors: 2048,
	}}))
	return info.ID
}

// live makes a device that a server serves.
func (m *machine) live(pid int, flags uint64) int {
	m.t.Helper()
	id := m.add(flags)
	m.server(pid, id)
	m.must(ctrl.New(m.drv).Start(m.t.Context(), id, pid))
	return id
}

// changing lists the commands sent since Forget that change something.
func (m *machine) changing() []string {
	names := map[uint32]string{
		uapi.CmdAddDev: "ADD_DEV", uapi.CmdDelDev: "DEL_DEV", uapi.CmdStartDev: "START_DEV", uapi.CmdStopDev: "STOP_DEV",
		uapi.CmdSetParams: "SET_PARAMS", uapi.CmdStartUserRecovery: "START_USER_RECOVERY", uapi.CmdEndUserRecovery: "END_USER_RECOVERY",
		uapi.CmdDelDevAsync: "DEL_DEV_ASYNC", uapi.CmdUpdateSize: "UPDATE_SIZE", uapi.CmdQuiesceDev: "QUIESCE_DEV", uapi.CmdTryStopDev: "TRY_STOP_DEV",
	}
	commands := []string{}
	for _, c := range m.drv.History() {
		if name, ok := names[c.Op]; ok {
			commands = append(commands, fmt.Sprintf("%s %d", name, int32(c.DevID)))
		}
	}
	return commands
}

func (m *machine) must(errs ...error) {
	m.t.Helper()
	if err := errors.Join(errs...); err != nil {
		m.t.Fatal(err)
	}
}

// want checks an exit code and texts that must be in the output. A text that
// starts with ! must not be there.
func (r result) want(t *testing.T, code int, texts ...string) {
	t.Helper()
	all := r.stdout + r.stderr
	for _, text := range texts {
		if not, negated := strings.CutPrefix(text, "!"); strings.Contains(all, strings.TrimPrefix(text, "!")) == negated {
			t.Errorf("want %q in the output, or not: %v %s", text, negated, not)
		}
	}
	if r.code != code {
		t.Errorf("exit code %d, want %d", r.code, code)
	}
	if t.Failed() {
		t.Fatalf("stdout:\n%s\nstderr:\n%s", r.stdout, r.stderr)
	}
}

// errNoDriver is what ctrl.Open answers without the driver.
func errNoDriver() error {
	return errors.Join(ctrl.ErrNoDriver, &os.PathError{Op: "open", Path: "/dev/ublk-control", Err: unix.ENOENT})
}
