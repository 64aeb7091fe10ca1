package cmd

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ublk/internal/ctrldev/fake"
)

// watchedMachine has a LIVE device of a foreign server and a DEAD one.
func watchedMachine(t *testing.T) *machine {
	m := newMachine(t, fake.Options{})
	m.live(4411, 0)
	m.add(0)
	m.write("sys/block/ublkb0/mq/0/nr_tags", "4\n")
	m.write("proc/diskstats", " 259 0 ublkb0 100 0 800 5 0 0 0 0 3 10 20 0 0 0 0 0 0\n")
	return m
}

func TestTopBatch(t *testing.T) {
	m := watchedMachine(t)
	// No terminal, no screen.
	for _, args := range [][]string{{"top", "-n", "2", "-d", "0.05"}, {"top", "-b", "-n", "2", "-d", "50ms", "0", "ublkb1"}} {
		r := m.run(args...)
		r.want(t, 0, "ublk top   2 devices, 1 live, 1 DEAD", "ID TYPE STATE", "4411 server", "debugfs is not mounted")
		if n := strings.Count(r.stdout, "ublk top"); n != 2 {
			t.Errorf("%d samples:\n%s", n, r.stdout)
		}
		if n := strings.Count(r.stderr, "\n"); n != 1 {
			t.Errorf("stderr %q", r.stderr)
		}
	}
}

func TestTopJSON(t *testing.T) {
	m := watchedMachine(t)
	r := m.run("top", "-J", "-n", "1", "-d", "0.05", "0")
	var d struct {
		ID       int     `json:"id"`
		State    string  `json:"state"`
		InFlight int     `json:"in_flight"`
		IOPS     float64 `json:"iops"`
		PID      int     `json:"server_pid"`
		Health   string  `json:"health"`
		Server   struct {
			PID     int      `json:"pid"`
			Command string   `json:"command"`
			Alive   bool     `json:"alive"`
			CPU     *float64 `json:"cpu"`
		} `json:"server"`
	}
	if err := json.Unmarshal([]byte(r.stdout), &d); err != nil || d.State != "LIVE" || d.InFlight != 3 || d.PID != 4411 || d.Server.PID != 4411 || !d.Server.Alive || d.Server.Command != "server" || d.Health != "healthy" {
		t.Errorf("%+v, %v: %+v", d, err, r)
	}
}

func TestStat(t *testing.T) {
	m := watchedMachine(t)
	r := m.run("stat", "-d", "0.05", "-c", "3", "--noheadings", "-o", "ID,STATE,R/s,AQU")
	r.want(t, 0, "0 LIVE 0 0.0", "1 DEAD -   -")
	if lines := strings.Split(strings.TrimSpace(r.stdout), "\n"); len(lines) != 6 {
		t.Errorf("%q", lines)
	}
	if r := m.run("stat", "-d", "0.05", "-c", "2", "-J", "-n", "0"); strings.Count(r.stdout, "\n") != 2 || !strings.HasPrefix(r.stdout, `{"time":"`) {
		t.Errorf("%+v", r)
	}
	m.run("stat", "-d", "0.05", "-c", "1", "--output-all").want(t, 0, "TIME", "P99.9", "SILENT")
}

// TestMissingDevice watches the devices that there are, and tells of others.
func TestMissingDevice(t *testing.T) {
	m := watchedMachine(t)
	for _, command := range []string{"stat -c", "top -n"} {
		args := append(strings.Fields(command), "1", "-d", "0.05", "0", "9")
		m.run(args...).want(t, 3, "device 9: no such device", "LIVE")
	}
	m.run("stat", "-c", "1", "8", "9").want(t, 4, "device 8: no such device", "device 9: no such device")
}

func TestTopUsage(t *testing.T) {
	m := watchedMachine(t)
	m.run("top", "-d", "soon").want(t, 64, `"soon"`)
	m.run("top", "-d", "0").want(t, 64, "from 50ms")
	m.run("top", "-n", "-1").want(t, 64)
	m.run("top", "-n", "0").want(t, 64, "a number from 1")
	m.run("stat", "-c", "-1").want(t, 64)
	m.run("stat", "-o", "P100").want(t, 64, "unknown column")
	m.run("top", "-n", "1", "7").want(t, 4, "device 7: no such device")
	m.run("stat", "7").want(t, 4, "device 7: no such device")
	m.openErr = errNoDriver()
	m.remove("sys/class/misc/ublk-control")
	m.remove("sys/class/ublk-char")
	m.run("top", "-n", "1").want(t, 6, "modprobe ublk_drv")
}

func TestTopWithoutPrivileges(t *testing.T) {
	m := watchedMachine(t)
	m.openErr = &os.PathError{Op: "open", Path: "/dev/ublk-control", Err: unix.EACCES}
	m.run("top", "-n", "1", "-d", "0.05").want(t, 0, "the driver tells only root", " 0 -    -     -        3")
}

func TestASCIIOnly(t *testing.T) {
	for _, test := range []struct {
		environ map[string]string
		want    bool
	}{
		{nil, true},
		{map[string]string{"LANG": "de_DE.UTF-8"}, false},
		{map[string]string{"LANG": "C.utf8"}, false},
		{map[string]string{"LANG": "C.UTF-8", "LC_ALL": "C"}, true},
		{map[string]string{"LANG": "C", "LC_CTYPE": "C.UTF-8"}, false},
	} {
		a := &app{getenv: func(name string) string { return test.environ[name] }}
		if got := a.asciiOnly(); got != test.want {
			t.Errorf("%v: %v", test.environ, got)
		}
	}
}
