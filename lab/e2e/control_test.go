package e2e

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"ublk/internal/sysfs"
)

// errnoCase is an answer of the driver's (kernel facts 1.5) and what a person
// is told of it.
type errnoCase struct {
	line string // DEV stands for the device
	code int
	want []string
}

func (c errnoCase) run(t *testing.T, d device) {
	t.Run(c.line, func(t *testing.T) {
		line := strings.Fields(strings.ReplaceAll(c.line, "DEV", d.arg))
		if c.code == 0 {
			run(t, line...).ok(t).has(t, c.want...)
			return
		}
		want := []string{fmt.Sprintf("ublk: %s: device %d: ", line[0], d.id)}
		run(t, line...).fails(t, c.code, append(want, c.want...)...)
	})
}

// TestLabControlCommands sends the commands of the driver one by one to a device
// that is not started, one that is, and one that waits for recovery.
func TestLabControlCommands(t *testing.T) {
	begin(t)
	try, quiesce, resize := has(t, "SAFE_STOP_DEV"), has(t, "QUIESCE"), has(t, "UPDATE_SIZE")
	// on says what a command gives on kernels that have it.
	on := func(there bool, c errnoCase) errnoCase {
		if !there {
			return errnoCase{c.line, 6, []string{"this kernel has no ", " (Linux ", "\n  All that this kernel has: ublk features\n"}}
		}
		return c
	}
	d := add(t, "-t", "null", "--no-start", "-q", "2", "-d", "32", "--size", "1G")
	for _, c := range []errnoCase{
		{"get-info DEV", 0, []string{"nr_hw_queues      2\n", "queue_depth       32\n", "state             DEAD\n", "dev_id            " + d.arg + "\n"}},
		{"get-affinity DEV", 0, []string{"queue 0  ", "queue 1  "}},
		{"get-params DEV", 0, []string{"dev_sectors                 2097152\n"}},
		{"start DEV", 1, []string{"START_DEV: no process holds /dev/ublkc" + d.arg, "\n  It has no server that could be waited for. To have it served: ublk serve " + d.arg + "\n"}},
		{"end-recovery DEV", 1, []string{"END_USER_RECOVERY: no process holds /dev/ublkc"}},
		{"start-recovery DEV", 1, []string{"START_USER_RECOVERY: invalid argument\n  The device was added without recovery (ublk add --recovery)"}},
		{"stop DEV", 0, []string{"STOP_DEV dev_id=" + d.arg + " = 0\n"}},
		on(try, errnoCase{"stop --safe DEV", 1, []string{"TRY_STOP_DEV: ", "\n  The device is not started: there is nothing to stop.\n"}}),
		on(resize, errnoCase{"update-size DEV 1G", 1, []string{"UPDATE_SIZE: ", "\n  The device is not started: it has no size to change.\n"}}),
		{"resize DEV 2G", 1, []string{"UPDATE_SIZE: ", "\n  The device is not started: it has no size to change.\n"}},
		on(quiesce, errnoCase{"quiesce DEV", 6, []string{"QUIESCE_DEV: operation not supported\n  The device was added without recovery (ublk add --recovery).\n"}}),
	} {
		c.run(t, d)
	}
	t.Run("set-params", func(t *testing.T) { testSetParams(t, d) })

	run(t, "serve", d.arg).prints(t, d.node+"\n")
	for _, c := range []errnoCase{
		{"start DEV", 1, []string{"START_DEV: file exists\n  The device is started already, or its previous disk is still held open.\n"}},
		{"set-params DEV dev_sectors=8", 7, []string{"SET_PARAMS: permission denied\n  The device is started, or its old disk is still open"}},
		on(resize, errnoCase{"update-size DEV 512M", 0, []string{"UPDATE_SIZE dev_id=" + d.arg + " sectors=1048576 = 0\n"}}),
		{"resize DEV 256M", 1, []string{"it has ", " bytes) now, more than 256M\n  Making it smaller cuts off data."}},
		on(resize, errnoCase{"resize --force DEV 256M", 0, nil}),
		on(try, errnoCase{"stop --safe DEV", 0, []string{"TRY_STOP_DEV dev_id=" + d.arg + " = 0\n"}}),
	} {
		c.run(t, d)
	}
	run(t, "del", d.arg).prints(t, "")
}

// testSetParams changes what can be changed, and loses nothing where it cannot.
func testSetParams(t *testing.T, d device) {
	params := func() string { return run(t, "get-params", d.arg).ok(t).stdout }
	before := params()
	for line, want := range map[string]string{
		"max_sectors=0":       "ublk: set-params: ",
		"basic.nosuch=1":      "ublk: set-params: ",
		"logical_bs_shift=8":  "ublk: set-params: ",
		"max_sectors=1000000": "ublk: set-params: ",
		"dev_sectors=many":    "ublk: set-params: ",
	} {
		run(t, "set-params", d.arg, line).fails(t, 64, want)
	}
	if after := params(); after != before {
		t.Errorf("refused parameters changed something:\n%s\n%s", before, after)
	}
	run(t, "set-params", d.arg, "dev_sectors=2097160", "read_only=true").ok(t).has(t, "dev_sectors                 2097160\n", "basic.read_only                   true\n")
	if after := params(); after == before || !strings.Contains(after, "dev_sectors                 2097160\n") {
		t.Errorf("not changed:\n%s", after)
	}
	// Out of one device, into another.
	out, err := exec.Command("sh", "-c", `"$UBLK_BIN" get-params -J "$1" | jq '.basic.read_only = false | .basic.dev_sectors = 2097152' | "$UBLK_BIN" set-params "$1" --file -`, "sh", d.arg).CombinedOutput()
	if err != nil || params() != before {
		t.Errorf("by a file: %v\n%s", err, out)
	}
	if t.Failed() {
		t.FailNow() // what follows needs them
	}
}

// TestLabRecoveryCommands recovers a device of a dead server step by step.
func TestLabRecoveryCommands(t *testing.T) {
	begin(t)
	d := add(t, "-t", "null", "--recovery=reissue", "--size", "1G")
	first := d.server(t)
	holder := fmt.Sprintf("\n  /dev/ublkc%d is open in process %d (ublk) (null, LIVE, server %d).\n", d.id, first, first)
	errnoCase{"start-recovery DEV", 7, []string{"START_USER_RECOVERY: device or resource busy" + holder}}.run(t, d)
	errnoCase{"end-recovery DEV", 7, []string{"END_USER_RECOVERY: device or resource busy" + holder}}.run(t, d)

	leaves := has(t, "QUIESCE")
	if leaves {
		errnoCase{"quiesce DEV", 0, []string{"QUIESCE_DEV dev_id=" + d.arg + " timeout_ms=30000 = 0\n"}}.run(t, d)
		eventually(t, "the server leaves", func() bool { return !alive(first) })
	} else {
		kill(t, first)
	}
	state := func() string { return run(t, "list", "--noheadings", "-o", "STATE,SERVER", d.arg).ok(t).stdout }
	eventually(t, "the device waits for recovery", func() bool { return state() == "QUIESCED -\n" })
	errnoCase{"start-recovery DEV", 0, []string{"START_USER_RECOVERY dev_id=" + d.arg + " = 0\n"}}.run(t, d)
	errnoCase{"end-recovery DEV", 1, []string{"END_USER_RECOVERY: no process holds /dev/ublkc"}}.run(t, d)
	errnoCase{"end-recovery --pid 1 --timeout 1 DEV", 8, []string{"END_USER_RECOVERY: no answer in time\n  The server has not fetched every tag of every queue"}}.run(t, d)
	run(t, "serve", d.arg).prints(t, d.node+"\n")
	second := d.server(t)
	run(t, "list", "--noheadings", "-o", "STATE,SERVER", d.arg).prints(t, fmt.Sprintf("LIVE %d\n", second))
	run(t, "del", d.arg).prints(t, "")
	d.gone(t, second)
}

// TestLabFeatureLists compares what get-features and features print.
func TestLabFeatureLists(t *testing.T) {
	begin(t)
	have := features(t)
	r := run(t, "get-features").ok(t)
	if want := fmt.Sprintf("%#x\n%s\n", uint64(have), strings.Join(have.Names(), "\n")); r.stdout != want {
		t.Errorf("want %q; %v", want, r)
	}
	var document struct {
		Raw   uint64   `json:"features_raw"`
		Names []string `json:"features"`
	}
	r = run(t, "get-features", "-J").ok(t)
	if err := json.Unmarshal([]byte(r.stdout), &document); err != nil || document.Raw != uint64(have) || len(document.Names) != len(have.Names()) {
		t.Errorf("%v; %v", err, r)
	}
	run(t, "features").ok(t).has(t, have.Names()...)
}

// TestLabCharHolder is a process that has the char device open and never serves.
func TestLabCharHolder(t *testing.T) {
	begin(t)
	d := add(t, "-t", "null", "--no-start")
	holder := start(t, "sh", "-c", "exec sleep 60 <>/dev/ublkc"+d.arg)
	eventually(t, "sleep has it open", func() bool {
		pid, ok, err := sysfs.New("/").CharHolder(d.id)
		return err == nil && ok && pid == holder.Process.Pid
	})
	errnoCase{"start --timeout 1 DEV", 8, []string{"START_DEV: no answer in time\n  The server has not fetched every tag of every queue"}}.run(t, d)
	run(t, "del", "--timeout", "2", d.arg).fails(t, 8, fmt.Sprintf("device %d: stopped, but process %d (sleep), ", d.id, holder.Process.Pid))
	_ = holder.Process.Kill()
	_ = holder.Wait()
	run(t, "del", d.arg).prints(t, "")
}
