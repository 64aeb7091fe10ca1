package cmd

import (
	"encoding/json"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublk/internal/ctrldev/fake"
	"ublk/internal/uapi"
)

func TestUsage(t *testing.T) {
	m := newMachine(t, fake.Options{})
	m.run().want(t, 64, "no command given", "Try: ublk --help")
	m.run("lst").want(t, 64, `unknown command "lst"`, "Did you mean list?")
	m.run("xyzzy").want(t, 64, `unknown command "xyzzy"`, "Try: ublk --help")
	m.run("--nonsense").want(t, 64, "unknown flag: --nonsense")
	m.run("list", "--nonsense").want(t, 64, "ublk: list: unknown flag: --nonsense", "Try: ublk list --help")
	m.run("list", "-o", "HELTH").want(t, 64, "did you mean HEALTH?")
	m.run("list", "-s", "X").want(t, 64, "unknown column")
	m.run("list", "-J", "-P").want(t, 64)
	m.run("stop", "0", "--timeout", "soon").want(t, 64, `"soon"`)
	m.run("features", "extra").want(t, 64)
	m.run("completion", "tcsh").want(t, 64)
	m.run("--help").want(t, 0, "130, 143", "Exit status", "no such device")
	m.run("help", "del").want(t, 0, "ublk del DEVICE... [OPTIONS]")
	m.run("help", "dle").want(t, 64, "Did you mean del?")
	m.run("version").want(t, 0, "ublk "+Version)
	if r := m.run("version", "-J"); !json.Valid([]byte(r.stdout)) {
		t.Error(r.stdout)
	}
}

func TestTypos(t *testing.T) {
	m := newMachine(t, fake.Options{})
	m.run("add", "-t", "null", "--sise", "1G").want(t, 64, "--size")
	m.run("add", "null").want(t, 64, "Did you mean -t null?")
	m.run("add", "-t", "null", "--recovery", "reissue").want(t, 64, "--recovery=reissue")
	m.run("add", "-t", "loop").want(t, 64, "needs --file")
	m.run("version", "x").want(t, 64, "one too many")
}

func TestUnderscores(t *testing.T) {
	m := newMachine(t, fake.Options{})
	m.run("list", "--output_all").want(t, 0, "FLAGS-RAW")
	m.run("add", "-t", "null", "--dry_run", "--max_io=64K", "--read_only").want(t, 0, "max_io_buf_bytes=65536", "read_only=true")
}

func TestWithoutDriver(t *testing.T) {
	m := newMachine(t, fake.Options{})
	m.openErr = errNoDriver()
	m.remove("sys/class/misc/ublk-control")
	m.remove("sys/class/ublk-char")
	for _, args := range [][]string{{"list"}, {"info", "0"}, {"del", "-a"}, {"features"}, {"add", "-t", "null"}, {"start", "0"}} {
		m.run(args...).want(t, 6, "modprobe ublk_drv", "CONFIG_BLK_DEV_UBLK")
	}
	if r := m.run("list"); !strings.HasPrefix(r.stderr, "ublk: ") || r.stdout != "" {
		t.Errorf("%+v", r)
	}
}

func TestListWithoutPrivileges(t *testing.T) {
	m := newMachine(t, fake.Options{})
	m.live(4411, 0)
	m.add(0)
	m.openErr = &os.PathError{Op: "open", Path: "/dev/ublk-control", Err: unix.EACCES}
	m.euid = 1000
	r := m.run("list")
	r.want(t, 0, " 0 -     -      1M      -     -      - -        /dev/ublkb0", " 1 DEAD")
	if strings.Count(r.stderr, "\n") != 1 || !strings.Contains(r.stderr, "only root") {
		t.Errorf("stderr %q", r.stderr)
	}
	m.run("info", "0").want(t, 0, "Node            /dev/ublkb0", "Size            1M", "!Flags")
	m.run("stop", "0").want(t, 5, "sudo")

	// The node can be opened, but the device is not ours.
	m.openErr = nil
	m.drv.Become(false)
	m.run("list").want(t, 0, "/dev/ublkb0", "only root")
	m.run("get-info", "0").want(t, 5)
}

// listFields are those of cli.md, which are only ever added to.
var listFields = []string{
	"id", "name", "state", "type", "size", "queues", "depth", "server_pid", "recovery", "node", "backing",
	"logical_block_size", "max_io", "flags", "flags_raw", "uid", "gid", "health",
}

func document(t *testing.T, r result) []map[string]any {
	t.Helper()
	var doc struct{ Ublkdevices []map[string]any }
	if err := json.Unmarshal([]byte(r.stdout), &doc); err != nil || doc.Ublkdevices == nil {
		t.Fatalf("%v:\n%s", err, r.stdout)
	}
	return doc.Ublkdevices
}

func TestListJSON(t *testing.T) {
	m := newMachine(t, fake.Options{})
	if rows := document(t, m.run("list", "-J")); len(rows) != 0 {
		t.Errorf("%v", rows)
	}
	m.run("list").want(t, 0, "ID STATE TYPE SIZE QUEUES DEPTH SERVER RECOVERY NODE BACKING\n")
	m.live(4411, uapi.FlagUserRecovery)
	m.add(0)
	rows := document(t, m.run("list", "-J"))
	if len(rows) != 2 {
		t.Fatalf("%v", rows)
	}
	for _, row := range rows {
		for _, name := range listFields {
			if _, ok := row[name]; !ok {
				t.Errorf("no field %s", name)
			}
		}
	}
	live, dead := rows[0], rows[1]
	for name, want := range map[string]any{"id": 0.0, "state": "LIVE", "size": 1048576.0, "server_pid": 4411.0, "recovery": "requeue", "node": "/dev/ublkb0", "health": "healthy", "name": nil} {
		if live[name] != want {
			t.Errorf("%s is %v, want %v", name, live[name], want)
		}
	}
	if dead["state"] != "DEAD" || dead["node"] != nil || dead["health"] != "dead" || dead["server_pid"] != nil {
		t.Errorf("%v", dead)
	}
	if flags, ok := live["flags"].([]any); !ok || !slices.Contains(flags, any("UBLK_F_USER_RECOVERY")) {
		t.Errorf("flags %v", live["flags"])
	}
	m.run("list", "-P", "-o", "ID,STATE", "1").want(t, 0, `ID="1" STATE="DEAD"`)
	m.run("list", "--noheadings", "--raw", "-o", "ID", "--sort", "state").want(t, 0, "1\n0\n")
}

func TestListOfStaleServer(t *testing.T) {
	m := newMachine(t, fake.Options{Kernel: fake.Linux6_12})
	m.live(4411, uapi.FlagUserRecovery)
	m.must(m.drv.KillServer(0))
	m.remove("proc/4411")
	m.run("list", "-o", "STATE,SERVER,HEALTH").want(t, 0, "QUIESCED      - waiting")
}

func TestInfo(t *testing.T) {
	m := newMachine(t, fake.Options{})
	m.live(4411, uapi.FlagUserRecovery)
	defer m.opener(70, "cat", 0)()
	m.run("info", "0").want(t, 0, "Device 0\n", "LIVE, healthy", "UBLK_F_USER_RECOVERY\n", "dev_sectors=2048", "Queue 1         CPUs 1",
		"4411 (server)", "pid 70 (cat) has /dev/ublkb0 open", "Recovery        requeue\n")
	row := document(t, m.run("info", "-J", "0"))[0]
	for _, name := range append(listFields, "params", "affinity", "server", "users", "counters", "stats", "state_folder") {
		if _, ok := row[name]; !ok {
			t.Errorf("no field %s", name)
		}
	}
	if row["params"].(map[string]any)["basic"].(map[string]any)["dev_sectors"] != 2048.0 || row["stats"] != nil {
		t.Errorf("%v", row)
	}

	m.must(m.drv.KillServer(0))
	m.write("sys/block/ublkb0/stat", "0 0 0 0 0 0 0 0 5 0 0 0 0 0 0 0 0\n")
	m.remove("proc/4411")
	r := m.app().fs
	if _, err := r.Stat(0); err != nil {
		t.Fatal(err)
	}
	m.run("info", "0").want(t, 0, "QUIESCED, waiting", "no server, I/O waits for one", "Process         none")
}

// TestInfoOfStuckDevice: what takes the device's mutex is given up, the rest is shown.
func TestInfoOfStuckDevice(t *testing.T) {
	m := newMachine(t, fake.Options{})
	m.live(4411, 0)
	m.drv.Freeze(uapi.CmdGetParams, false)
	defer m.drv.Unfreeze(uapi.CmdGetParams)
	m.run("info", "0").want(t, 0, "LIVE", "the device does not answer", "4411 (server)")
}

func TestFeatures(t *testing.T) {
	m := newMachine(t, fake.Options{Kernel: fake.Linux6_12})
	m.run("features").want(t, 0, "UBLK_F_USER_COPY              yes  6.5", "UBLK_F_BATCH_IO               no   7.0")
	m.run("get-features").want(t, 0, "0x1fe\n", "UBLK_F_ZONED\n")
	m.run("get-features", "-J").want(t, 0, `"features_raw": 510`)
	m.run("features", "-J").want(t, 0, `"supported": false`)
}

func TestControlCommands(t *testing.T) {
	m := newMachine(t, fake.Options{})
	m.live(4411, uapi.FlagUserRecovery|uapi.FlagQuiesce)
	m.add(0)
	m.server(500, 1)
	m.add(0)
	tests := []struct {
		args   []string
		code   int
		output string
		sent   []string // what changes something
	}{
		{[]string{"get-info", "-J", "0"}, 0, `"ublksrv_pid": 4411`, nil},
		{[]string{"get-params", "0"}, 0, "basic.dev_sectors         2048", nil},
		{[]string{"get-params", "-J", "0"}, 0, `"dev_sectors": 2048`, nil},
		{[]string{"get-affinity", "0", "-q", "1"}, 0, "queue 1  1", nil},
		{[]string{"get-affinity", "0", "-q", "2"}, 64, "queues 0 to 1", nil},
		{[]string{"start", "2"}, 1, "no process holds /dev/ublkc2", nil},
		{[]string{"start", "1"}, 0, "START_DEV dev_id=1 pid=500 = 0", []string{"START_DEV 1"}},
		{[]string{"start", "1"}, 1, "started already", []string{"START_DEV 1"}},
		{[]string{"start", "2", "--pid", "9", "--timeout", "1"}, 8, "has not fetched every tag", []string{"START_DEV 2"}},
		{[]string{"update-size", "1", "2M"}, 0, "UPDATE_SIZE dev_id=1 sectors=4096 = 0", []string{"UPDATE_SIZE 1"}},
		{[]string{"update-size", "1", "1000"}, 64, "multiple of a sector", nil},
		{[]string{"update-size", "2", "1M"}, 1, "not started", []string{"UPDATE_SIZE 2"}},
		{[]string{"update-size", "1"}, 64, "too few", nil},
		{[]string{"set-params", "1", "dev_sectors=8"}, 7, "before START_DEV", []string{"SET_PARAMS 1"}},
		{[]string{"quiesce", "1"}, 6, "without recovery", []string{"QUIESCE_DEV 1"}},
		{[]string{"quiesce", "0", "--timeout", "5"}, 0, "QUIESCE_DEV dev_id=0 timeout_ms=5000 = 0", []string{"QUIESCE_DEV 0"}},
		{[]string{"start-recovery", "0"}, 7, "process 4411 (server)", []string{"START_USER_RECOVERY 0"}},
		{[]string{"start-recovery", "1"}, 1, "without recovery", []string{"START_USER_RECOVERY 1"}},
		{[]string{"stop", "--safe", "1", "-J"}, 0, `"command": "TRY_STOP_DEV"`, []string{"TRY_STOP_DEV 1"}},
		{[]string{"stop", "--safe", "1"}, 1, "nothing to stop", []string{"TRY_STOP_DEV 1"}},
		{[]string{"stop", "1"}, 0, "STOP_DEV dev_id=1 = 0", []string{"STOP_DEV 1"}},
		{[]string{"stop", "7"}, 4, "Devices: 0, 1, 2", nil},
	}
	for _, test := range tests {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			m.drv.Forget()
			m.run(test.args...).want(t, test.code, test.output)
			if got := m.changing(); !slices.Equal(got, test.sent) && len(got)+len(test.sent) > 0 {
				t.Errorf("sent %v, want %v", got, test.sent)
			}
		})
	}
}

func TestRecoveryCommands(t *testing.T) {
	m := newMachine(t, fake.Options{})
	m.live(4411, uapi.FlagUserRecovery)
	m.must(m.drv.KillServer(0))
	m.remove("proc/4411")
	m.run("end-recovery", "0").want(t, 1, "no process holds /dev/ublkc0", "ublk serve 0")
	m.run("start-recovery", "0").want(t, 0, "START_USER_RECOVERY dev_id=0 = 0")
	m.server(500, 0)
	m.run("end-recovery", "0").want(t, 0, "END_USER_RECOVERY dev_id=0 pid=500 = 0")
	m.run("list", "-o", "STATE,SERVER").want(t, 0, "LIVE     500")
}

func TestStopSafe(t *testing.T) {
	m := newMachine(t, fake.Options{})
	m.live(4411, 0)
	defer m.opener(70, "cat", 0)()
	m.run("stop", "--safe", "0").want(t, 7, "In use: pid 70 (cat)")

	old := newMachine(t, fake.Options{Kernel: fake.Linux6_12})
	old.live(4411, 0)
	old.run("stop", "--safe", "0").want(t, 6, "TRY_STOP_DEV", "Linux 7.0 or newer")
}

// TestStuck: a command that hangs is given up and says who holds it up, first
// after a while and again at the end.
func TestStuck(t *testing.T) {
	m := newMachine(t, fake.Options{})
	m.live(4411, 0)
	m.process(4411, "server", 'T')
	m.must(m.drv.Hold(0, 1))
	begin := time.Now()
	r := m.run("stop", "0", "--timeout", "0.4")
	r.want(t, 8, "waiting for STOP_DEV", "is stopped by a signal", "kill -CONT 4411", "no answer in time", "!context")
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestInterrupted(t *testing.T) {
	m := newMachine(t, fake.Options{})
	m.live(4411, 0)
	for signal, code := range map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGTERM: 143} {
		m.drv.Freeze(uapi.CmdStopDev, true)
		done := make(chan result)
		go func() { done <- m.run("stop", "0") }()
		m.must(m.drv.Wait(t.Context(), 1), syscall.Kill(os.Getpid(), signal))
		(<-done).want(t, code, "ublk: stop: interrupted")
		m.drv.Unfreeze(uapi.CmdStopDev)
		m.must(m.drv.Wait(t.Context(), 0))
	}
}

func TestSetParams(t *testing.T) {
	m := newMachine(t, fake.Options{})
	m.add(0)
	m.drv.Forget()
	m.run("set-params", "0", "dev_sectors=0x1000", "basic.read_only=true", "discard_granularity=4096").want(t, 0, "basic.dev_sectors                 4096", "basic.read_only                   true")
	if got := m.changing(); !slices.Equal(got, []string{"SET_PARAMS 0"}) {
		t.Errorf("sent %v", got)
	}
	p, _ := m.drv.Stored(0)
	if p.Basic.DevSectors != 4096 || p.Basic.Attrs&uapi.AttrReadOnly == 0 || p.Discard.Granularity != 4096 {
		t.Errorf("%+v", p)
	}
	m.stdin = `{"basic": {"dev_sectors": 8192}}`
	m.run("set-params", "0", "--file", "-", "read_only=false").want(t, 0, "8192", "basic.read_only                   false")
	for _, test := range []struct{ assignment, output string }{
		{"nonsense=1", "no parameter"}, {"dev_sectors", "NAME=VALUE"}, {"dev_sectors=many", "a number"}, {"read_only=5", "does not fit"},
		{"logical_bs_shift=8", "logical blocks are"}, {"max_sectors=1", "at least one page"}, {"devt.char_major=1", "no parameter"},
	} {
		m.run("set-params", "0", test.assignment).want(t, 64, test.output)
	}
	m.run("set-params", "0").want(t, 64, "which parameters?")
	m.run("set-params").want(t, 64, "which device?")
	m.run("set-params", "0", "--file", "/nonexistent").want(t, 1)
	if p, _ = m.drv.Stored(0); p.Basic.DevSectors != 8192 {
		t.Errorf("parameters changed: %+v", p)
	}

	// What the driver rejects wipes the parameters: they are restored.
	m.drv.Fail(uapi.CmdSetParams, unix.EINVAL)
	m.run("set-params", "0", "dev_sectors=16").want(t, 1)
	if p, _ = m.drv.Stored(0); p.Basic.DevSectors != 8192 {
		t.Errorf("parameters not restored: %+v", p)
	}
}

func TestCompletion(t *testing.T) {
	m := newMachine(t, fake.Options{})
	m.live(4411, 0)
	m.run("add", "--no-start", "-t", "null", "--name", "scratch", "--size", "1M").want(t, 0)
	m.openErr = fs.ErrPermission // nothing may need the control node
	tests := []struct {
		args []string
		want []string
	}{
		{[]string{"info", ""}, []string{"0\t", "1\t", "scratch\t"}},
		{[]string{"info", "/dev/"}, []string{"/dev/ublkb0\t", "/dev/ublkb1\t"}},
		{[]string{"info", "0", ""}, []string{"1\t", "!0\t"}},
		{[]string{"del", "-n", ""}, []string{"0\t"}},
		{[]string{"add", "--type", ""}, []string{"null\t"}},
		{[]string{"add", "--data", "u"}, []string{"user-copy", "!auto"}},
		{[]string{"add", "--recovery="}, []string{"requeue", "reissue", "fail"}},
		{[]string{"list", "-o", "ID,HE"}, []string{"ID,HEALTH\t"}},
		{[]string{"list", "--sort", "SI"}, []string{"SIZE\t"}},
		{[]string{"start", "0", "--pid", ""}, []string{"4411"}},
		{[]string{"set-params", "0", "basic.d"}, []string{"basic.dev_sectors="}},
		{[]string{"completion", ""}, []string{"bash", "zsh", "fish"}},
		{[]string{"help", "get-"}, []string{"get-info\t", "!list"}},
		{[]string{"st"}, []string{"start\t", "stop\t", "!ctrl-helper"}},
	}
	for _, test := range tests {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			m.run(append([]string{"__complete"}, test.args...)...).want(t, 0, test.want...)
		})
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		m.run("completion", shell).want(t, 0, "ublk")
	}
}

// TestTables checks the columns themselves.
func TestTables(t *testing.T) {
	if err := deviceTable().Check(); err != nil {
		t.Error(err)
	}
	if err := featureTable().Check(); err != nil {
		t.Error(err)
	}
}

// TestEveryCommandIsDescribed keeps help and manual complete.
func TestEveryCommandIsDescribed(t *testing.T) {
	for _, c := range NewCommand().Commands() {
		if c.Hidden {
			continue
		}
		if c.Short == "" || c.GroupID == "" || strings.HasSuffix(c.Short, ".") || strings.ToUpper(c.Short[:1]) == c.Short[:1] {
			t.Errorf("%s: %q", c.Name(), c.Short)
		}
	}
}
