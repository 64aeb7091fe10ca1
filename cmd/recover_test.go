package cmd

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"ublk/internal/ctrldev/fake"
	"ublk/internal/uapi"
	"ublk/server"
)

// crash makes a device whose server has died.
func (m *machine) crash(pid int, flags uint64) int {
	m.t.Helper()
	id := m.live(pid, flags)
	m.must(m.drv.KillServer(id))
	m.remove(fmt.Sprintf("proc/%d", pid))
	return id
}

// token is that of the devices of this machine which are ours.
const token = 7

// revive is a serving process that does its work at once.
func (m *machine) revive(pid int) func(server.Job) (*server.Started, error) {
	return func(job server.Job) (*server.Started, error) {
		m.server(pid, job.ID)
		return &server.Started{ID: job.ID, PID: pid}, nil
	}
}

func TestRecover(t *testing.T) {
	m := newMachine(t, fake.Options{})
	m.token = token
	id := m.crash(4411, uapi.FlagUserRecovery|uapi.FlagUserRecoveryReissue)
	m.remember(id, 1, "disk-1", `{"type":"null","options":{"size":"1M"}}`)
	m.spawn = m.revive(4502)
	m.run("recover", "0", "--dry-run").want(t, 1, "remembered state", "ublk recover 0 --type TYPE", "ublk del --force 0")
	m.remember(id, token, "", `{"type":"null","options":{"size":"1M"}}`)
	m.run("recover", "0", "--dry-run").want(t, 0, "START_USER_RECOVERY dev_id=0\nserve dev_id=0 type=null\nEND_USER_RECOVERY dev_id=0 pid=the server's\n")
	if len(m.spawned) > 0 {
		t.Error("--dry-run started a server")
	}
	r := m.run("recover", "0")
	r.want(t, 0)
	if r.stdout != "/dev/ublkb0\n" || r.stderr != "" {
		t.Errorf("printed %q and %q", r.stdout, r.stderr)
	}
	if len(m.spawned) != 1 || m.spawned[0].Action != server.ActionRecover || m.spawned[0].ID != 0 || m.spawned[0].Config.Type != "null" {
		t.Errorf("started %+v", m.spawned)
	}
}

func TestRecoverRefuses(t *testing.T) {
	m := newMachine(t, fake.Options{})
	m.spawn = func(server.Job) (*server.Started, error) { return nil, errors.New("no server may be started") }
	live := m.live(4411, uapi.FlagUserRecovery)
	dead := m.add(0)
	m.run("recover", "0").want(t, 7, "device 0: the device has a server: process 4411", "ublk upgrade")
	m.run("recover", "1").want(t, 1, "device 1: the device is DEAD", "added without recovery", "ublk serve 1")
	m.run("recover", "5").want(t, 4, "no such device")
	m.run("recover").want(t, 64, "which device?")
	m.run("recover", "0", "1", "--type", "null").want(t, 64, "one device at a time")
	m.run("recover", "-a").want(t, 0, "!device")
	m.run("recover", "0", "1").want(t, 1, "has a server", "is DEAD") // differently
	if len(m.spawned) > 0 {
		t.Errorf("started %+v for devices %d and %d", m.spawned, live, dead)
	}
}

// TestRecoverSize tells what is remembered of nobody from the wrong disk.
func TestRecoverSize(t *testing.T) {
	m := newMachine(t, fake.Options{})
	m.crash(4411, uapi.FlagUserRecovery)
	m.spawn = m.revive(4502)
	m.run("recover", "0").want(t, 1, "Say what it is: ublk recover 0 --type TYPE")
	m.run("recover", "0", "--type", "null", "--size", "2M").want(t, 1, "has 1048576 bytes", "has 2097152", "--size 1048576")
	m.run("recover", "0", "--type", "null", "--size", "1M").want(t, 0, "/dev/ublkb0", "not remembered")
	if len(m.spawned) != 1 || m.spawned[0].Config.Options["size"] != "1M" {
		t.Errorf("started %+v", m.spawned)
	}
}

// TestRecoverSome is one of several that cannot be recovered.
func TestRecoverSome(t *testing.T) {
	m := newMachine(t, fake.Options{})
	m.token = token
	for id := range 3 {
		m.crash(4411+id, uapi.FlagUserRecovery)
		m.remember(id, token, "", `{"type":"null","options":{"size":"1M"}}`)
	}
	m.spawn = func(job server.Job) (*server.Started, error) {
		if job.ID == 1 {
			return nil, errors.New("the disk is on fire")
		}
		return m.revive(4500 + job.ID)(job)
	}
	r := m.run("recover", "--all")
	r.want(t, 3, "/dev/ublkb0\n", "/dev/ublkb2\n", "!/dev/ublkb1", "device 1: the disk is on fire")
}

func TestUpgradeRefuses(t *testing.T) {
	const recoverable = uapi.FlagUserRecovery | uapi.FlagUserRecoveryReissue
	for _, tt := range []struct {
		name    string
		options fake.Options
		flags   uint64
		dead    bool
		code    int
		says    []string
	}{
		{"old kernel", fake.Options{Kernel: fake.Linux6_12}, recoverable, false, 6, []string{"UBLK_F_QUIESCE", "6.16"}},
		{"no recovery", fake.Options{}, 0, false, 6, []string{"UBLK_F_USER_RECOVERY"}},
		{"no quiesce", fake.Options{}, recoverable, false, 6, []string{"UBLK_F_QUIESCE", "kill -KILL 4411"}},
		{"fail", fake.Options{}, uapi.FlagUserRecovery | uapi.FlagUserRecoveryFailIO | uapi.FlagQuiesce, false, 1, []string{"--force"}},
		{"no server", fake.Options{}, recoverable | uapi.FlagQuiesce, true, 1, []string{"QUIESCED", "ublk recover 0"}},
		{"not ours", fake.Options{}, recoverable | uapi.FlagQuiesce, false, 1, []string{"Only the servers of devices that ublk remembers"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t, tt.options)
			id := m.live(4411, tt.flags)
			if tt.dead {
				m.must(m.drv.KillServer(id))
			}
			m.drv.Forget()
			m.run("upgrade", "0").want(t, tt.code, tt.says...)
			if sent := m.changing(); len(sent) > 0 {
				t.Errorf("sent %v", sent)
			}
		})
	}
}

func TestWatchOptions(t *testing.T) {
	m := newMachine(t, fake.Options{})
	for line, says := range map[string]string{
		"--on-crash=panic": "one of recover, stop, delete, hold",
		"--on-hang=wait":   "one of report, kill",
		"--give-up=soon":   "soon",
		"--burst=-1":       "a number from 0",
		"--hang-after=1y":  "1y",
		"0":                "",
	} {
		m.run("watch", line).want(t, 64, says)
	}
}

func TestCrashView(t *testing.T) {
	p := infoText{}
	how, text := "exit code 2, a panic", "panic: x\n\tat y"+strings.Repeat("\nmore", 50)
	p.crash(&crashView{PID: 7, How: &how, Held: []heldTag{{Queue: 1, Tag: 2, Op: "write", Sector: 8, Bytes: 4096, Age: 1}}, Torn: true, Panic: &text})
	for _, want := range []string{"Last crash\n", "7, exit code 2, a panic\n", "1 request, and was taking more\n", "queue 1 tag 2: write of 4096 bytes at sector 8, since ", "panic: x\n", "    at y\n"} {
		if !strings.Contains(p.b.String(), want) {
			t.Errorf("%q is not in\n%s", want, p.b.String())
		}
	}
	if n := strings.Count(p.b.String(), "more"); n > panicLines {
		t.Errorf("%d lines of a panic", n)
	}
	p = infoText{}
	if p.crash(nil); p.b.Len() > 0 {
		t.Errorf("no crash is told as %q", p.b.String())
	}
}

func TestWord(t *testing.T) {
	parse := word(crashWords)
	for _, w := range crashWords {
		name, _, _ := strings.Cut(w, "\t")
		if got, err := parse(name); err != nil || got != name {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if _, err := parse("recover\ta"); err == nil || !slices.Contains(strings.Fields(err.Error()), "hold") {
		t.Errorf("a word that is none: %v", err)
	}
}

func TestUpgradeWantsMemory(t *testing.T) {
	m := newMachine(t, fake.Options{})
	m.token = token
	id := m.live(4411, uapi.FlagUserRecovery|uapi.FlagUserRecoveryReissue|uapi.FlagQuiesce)
	m.remember(id, token, "", `{"type":"null"}`)
	m.write("proc/meminfo", "MemTotal: 4096 kB\nMemAvailable: 64 kB\n")
	m.drv.Forget()
	m.run("upgrade", "0").want(t, 1, "of memory, and only", "--force")
	if sent := m.changing(); len(sent) > 0 {
		t.Errorf("sent %v", sent)
	}
}
