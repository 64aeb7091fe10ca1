package cmd

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/internal/ctrldev/fake"
	"ublk/internal/uapi"
	"ublk/server"
)

func TestAdd(t *testing.T) {
	m := newMachine(t, fake.Options{})
	m.spawn = func(server.Job) (*server.Started, error) {
		id := m.live(4411, 0)
		return &server.Started{ID: id, PID: 4411, Warnings: []string{"2 queues instead of 8"}}, nil
	}
	r := m.run("add", "-t", "null", "-q", "8", "-d", "16", "--size", "1G", "-r", "--data=user-copy", "--name", "x", "--stats=off", "--cpus", "0-1")
	r.want(t, 0)
	if r.stdout != "/dev/ublkb0\n" || r.stderr != "ublk: add: warning: 2 queues instead of 8\n" {
		t.Errorf("%+v", r)
	}
	job := m.spawned[0]
	c := job.Config
	if job.Action != server.ActionAdd || job.ID != -1 || c.Type != "null" || c.Queues != 8 || c.Depth != 16 || c.Options["size"] != "1G" ||
		c.Recovery != ctrl.RecoveryRequeue || c.Data != server.DataUserCopy || c.Name != "x" || !c.NoStats || !slices.Equal(c.CPUs, []int{0, 1}) {
		t.Errorf("%+v", job)
	}

	rows := document(t, m.run("add", "-t", "null", "-J"))
	if len(rows) != 1 || rows[0]["node"] != "/dev/ublkb1" {
		t.Errorf("%v", rows)
	}
	m.run("add", "-t", "null", "-n", "5", "--recovery=reissue", "--zero-copy", "--cpus=auto").want(t, 0)
	if job = m.spawned[2]; job.ID != 5 || job.Config.Recovery != ctrl.RecoveryReissue || job.Config.Data != server.DataAutoReg || !job.Config.Affinity {
		t.Errorf("%+v", job)
	}
	m.run("add", "-t", "null", "--foreground").want(t, 0)
	if len(m.spawned) != 4 {
		t.Error("not served in the foreground")
	}
}

func TestAddRefused(t *testing.T) {
	m := newMachine(t, fake.Options{})
	for _, test := range []struct {
		args   string
		code   int
		output string
	}{
		{"", 64, "which type? --type null"},
		{"-t nul", 64, "one of null"},
		{"-t null -q 0", 64, "a number from 1 to 4096"},
		{"-t null -d 4097", 64, "a number from 1 to 4096"},
		{"-t null --size 1Q", 64, "unknown unit"},
		{"-t null --max-io 1G", 64, "at most 32M"},
		{"-t null --logical-block-size 1000", 64, "power of two"},
		{"-t null --name ublkb0", 64, "the kernel's own name"},
		{"-t null --recovery=always", 64, "one of requeue, reissue, fail"},
		{"-t null --data=best", 64, "one of auto"},
		{"-t null --buffers=big", 64, "one of plain"},
		{"-t null --stats=maybe", 64, "on or off"},
		{"-t null --cpus 3-1", 64, "backwards"},
		{"-t null --unprivileged", 64, "ignores it for root"},
		{"-t null --unprivileged --recovery", 64, "exclude each other"},
		{"-t null --data=copy --user-copy", 64, "user-copy"},
		{"-t null --no-start --foreground", 64, "foreground"},
		{"-t null stray", 64, "stray"},
		{"-t null --file x", 64, "target null has no option --file"},
	} {
		t.Run(test.args, func(t *testing.T) {
			m.run(append([]string{"add"}, strings.Fields(test.args)...)...).want(t, test.code, test.output)
		})
	}
	if len(m.spawned) > 0 || len(m.changing()) > 0 {
		t.Error("something was done")
	}
}

func TestAddFails(t *testing.T) {
	m := newMachine(t, fake.Options{})
	m.live(4411, 0)
	var err error
	m.spawn = func(server.Job) (*server.Started, error) { return nil, err }
	for _, test := range []struct {
		err    error
		code   int
		output string
	}{
		{&ctrl.Error{Op: "ADD_DEV", Dev: 0, Err: unix.EEXIST}, 7, "ublk: add: device 0: ADD_DEV: file exists\n  Device 0 is there already (LIVE, server 4411). Choose another number or leave -n out.\n"},
		{&ctrl.Error{Op: "ADD_DEV", Dev: -1, Err: unix.EPERM}, 5, "CAP_SYS_ADMIN"},
		{&ctrl.UnsupportedError{Feature: "UBLK_F_BATCH_IO", Since: "7.0"}, 6, "this kernel has no UBLK_F_BATCH_IO (Linux 7.0 or newer)"},
		{&os.PathError{Op: "open", Path: "/nosuch", Err: unix.ENOENT}, 1, "open /nosuch: no such file or directory"},
		{errors.New("the serving process died"), 1, "the serving process died"},
	} {
		err = test.err
		m.run("add", "-t", "null").want(t, test.code, test.output)
	}
}

func TestAddDryRun(t *testing.T) {
	m := newMachine(t, fake.Options{})
	m.run("add", "-t", "null", "--dry-run", "-n", "3", "-q", "4", "--size=1M", "--recovery=fail").want(t, 0,
		"ADD_DEV dev_id=3 nr_hw_queues=4 queue_depth=128 max_io_buf_bytes=524288 flags=UBLK_F_USER_RECOVERY|UBLK_F_USER_RECOVERY_FAIL_IO|UBLK_F_QUIESCE\n",
		"SET_PARAMS dev_id=3 basic.read_only=false", "basic.dev_sectors=2048", "START_DEV dev_id=3 pid=")
	m.run("add", "-t", "null", "--dry-run", "--no-start").want(t, 0, "ADD_DEV dev_id=auto", "!START_DEV")
	m.run("add", "-t", "null", "--dry-run", "-J").want(t, 0, `"command": "SET_PARAMS"`)
	for _, c := range m.drv.History() {
		if c.Op != uapi.CmdGetFeatures {
			t.Errorf("--dry-run sent %#x", c.Op)
		}
	}
	old := newMachine(t, fake.Options{Kernel: fake.Linux6_12})
	old.run("add", "-t", "null", "--dry-run", "--batch").want(t, 6, "UBLK_F_BATCH_IO", "7.0")
}

func TestAddNoStartAndServe(t *testing.T) {
	m := newMachine(t, fake.Options{CPUs: 2})
	m.run("add", "-t", "null", "--no-start", "-q", "8", "--size", "1M", "--name", "later").want(t, 0, "/dev/ublkc0\n", "warning: 2 queues instead of 8")
	if got := m.changing(); !slices.Equal(got, []string{"ADD_DEV -1", "SET_PARAMS 0"}) {
		t.Errorf("sent %v", got)
	}
	m.run("list", "-o", "ID,NAME,STATE,TYPE").want(t, 0, " 0 later DEAD  null")
	m.run("info", "later").want(t, 0, "2 (of 8 asked for), depth 128", "Option          size=1M", "State folder    "+m.state.Path)

	m.spawn = func(job server.Job) (*server.Started, error) {
		m.server(4411, 0)
		m.must(ctrl.New(m.drv).Start(t.Context(), 0, 4411))
		return &server.Started{ID: 0}, nil
	}
	m.run("serve", "later", "--buffers=huge").want(t, 0, "/dev/ublkb0\n")
	job := m.spawned[0]
	if job.Action != server.ActionServe || job.ID != 0 || job.Config.Type != "null" || job.Config.Options["size"] != "1M" || job.Config.Buffers != server.BuffersHuge || job.Config.Name != "later" {
		t.Errorf("%+v", job)
	}
	m.run("serve", "later").want(t, 7, "the device has a server: process 4411")
}

func TestServeForeignDevice(t *testing.T) {
	m := newMachine(t, fake.Options{})
	m.add(uapi.FlagUserCopy)
	m.spawn = func(server.Job) (*server.Started, error) { return &server.Started{ID: 0}, nil }
	m.run("serve", "0").want(t, 1, "nothing is remembered", "ublk serve 0 --type TYPE")
	m.run("serve", "0", "-t", "null").want(t, 0)
	if c := m.spawned[0].Config; c.Type != "null" || c.Data != server.DataUserCopy || c.Depth != 4 {
		t.Errorf("%+v", c)
	}
	m.run("serve", "7").want(t, 4)
	m.run("serve", "0", "--queues", "3").want(t, 64, "unknown flag")
}

func TestResize(t *testing.T) {
	m := newMachine(t, fake.Options{})
	m.live(4411, 0)
	m.write("sys/block/ublkb0/queue/logical_block_size", "512\n")
	m.run("resize", "0", "2M").want(t, 0)
	if p, _ := m.drv.Stored(0); p.Basic.DevSectors != 4096 {
		t.Errorf("%+v", p)
	}
	m.run("resize", "0", "1M").want(t, 1, "it has 2M (2097152 bytes) now, more than 1M", "--force")
	m.run("resize", "0", "1M", "--force").want(t, 0)
	m.run("resize", "0", "0").want(t, 64)
	m.run("resize", "0", "1000").want(t, 64, "multiple of a sector")
	m.run("resize", "0", "lots").want(t, 64)
	m.run("resize", "0").want(t, 64)
	m.run("resize", "9", "1M").want(t, 4)
	m.add(0)
	m.run("resize", "1", "1M").want(t, 1, "not started")

	old := newMachine(t, fake.Options{Kernel: fake.Linux6_12})
	old.live(4411, 0)
	old.run("resize", "0", "2M").want(t, 6, "Linux 6.16")
}

// TestTargetOptionPath: a file is named from where the person stands, not from
// where the server does.
func TestTargetOptionPath(t *testing.T) {
	m := newMachine(t, fake.Options{})
	folder := t.TempDir()
	t.Chdir(folder)
	m.must(os.WriteFile("disk", make([]byte, 1<<20), 0o600))
	m.spawn = func(server.Job) (*server.Started, error) { return &server.Started{ID: 0}, nil }
	m.run("add", "-t", "loop", "-f", "disk").want(t, 0)
	if file := m.spawned[0].Config.Options["file"]; file != filepath.Join(folder, "disk") {
		t.Errorf("file %q", file)
	}
}

func FuzzSetParam(f *testing.F) {
	for _, seed := range []string{"dev_sectors=1", "basic.read_only=true", "a.b=c", "=", "alignment=0x1ff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, assignment string) {
		var p ctrl.Params
		if setParam(&p, assignment) == nil {
			if fields, err := paramFields(&p); err != nil || len(fields) == 0 {
				t.Errorf("%q: %v %v", assignment, fields, err)
			}
		}
	})
}
