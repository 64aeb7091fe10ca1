package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

const header = "ID STATE TYPE SIZE QUEUES DEPTH SERVER RECOVERY NODE BACKING\n"

// TestLabDevice is a device of four queues from add to del.
func TestLabDevice(t *testing.T) {
	begin(t)
	run(t, "list").prints(t, header)
	run(t, "list", "--noheadings").prints(t, "")
	run(t, "list", "-J").prints(t, "{\n   \"ublkdevices\": []\n}\n")
	run(t, "del", "--all").prints(t, "")

	dry := []string{"add", "-t", "null", "-q", "4", "-d", "64", "--size", "1G", "--name", "scratch", "--dry-run"}
	run(t, dry...).ok(t).has(t, "ADD_DEV dev_id=auto nr_hw_queues=4 queue_depth=64 max_io_buf_bytes=524288 flags=0\n",
		"SET_PARAMS dev_id=auto ", " basic.dev_sectors=2097152 ", "START_DEV dev_id=auto pid=")
	if left := leftovers(); left != "" {
		t.Fatalf("a dry run of add left %s", left)
	}

	r := run(t, "add", "-t", "null", "-n", "3", "-q", "4", "-d", "64", "--size", "1G", "--name", "scratch").prints(t, "/dev/ublkb3\n")
	if r.code != 0 {
		t.FailNow()
	}
	d := device{3, "3", "/dev/ublkb3"}
	server := d.server(t)
	t.Run("list", func(t *testing.T) { testList(t, server) })
	t.Run("info", func(t *testing.T) { testInfo(t, server) })
	t.Run("mistakes", testMistakes)

	if info, err := os.Stat(d.node); err != nil || info.Mode()&os.ModeDevice == 0 {
		t.Errorf("%s: %v", d.node, err)
	}
	plan := "STOP_DEV dev_id=3\nDEL_DEV dev_id=3\n"
	if has(t, "SAFE_STOP_DEV") {
		plan = "TRY_" + plan
	}
	run(t, "del", "scratch", "--dry-run").prints(t, plan)
	run(t, "list", "-o", "STATE,SERVER", "--noheadings", "3").prints(t, fmt.Sprintf("LIVE %d\n", server))
	run(t, "del", "scratch").prints(t, "")
	d.gone(t, server)
	run(t, "list", "scratch").fails(t, 4, `ublk: list: no device is named "scratch"`, "\n  There are no devices.\n")
}

func testList(t *testing.T, server int) {
	line := fmt.Sprintf(" 3 LIVE  null   1G      4    64 %6d none     /dev/ublkb3 -\n", server)
	heading := "ID STATE TYPE SIZE QUEUES DEPTH SERVER RECOVERY NODE        BACKING\n"
	run(t, "list").prints(t, heading+line)
	for _, spelling := range [][]string{{"3"}, {"ublkb3"}, {"/dev/ublkb3"}, {"/dev/ublkc3"}, {"scratch"}, {"-n", "3"}, {"--number=3", "scratch"}} {
		run(t, append([]string{"list", "--noheadings", "-o", "ID,NAME,SIZE", "-b"}, spelling...)...).prints(t, "3 scratch 1073741824\n")
	}
	run(t, "list", "-o", "+HEALTH", "--raw").prints(t, "ID STATE TYPE SIZE QUEUES DEPTH SERVER RECOVERY NODE BACKING HEALTH\n"+
		fmt.Sprintf("3 LIVE null 1G 4 64 %d none /dev/ublkb3 - healthy\n", server))
	run(t, "list", "-P", "-o", "ID,NAME,NODE").prints(t, `ID="3" NAME="scratch" NODE="/dev/ublkb3"`+"\n")

	// Into jq, as a script would.
	filter := `.ublkdevices | length == 1 and (.[0] | .id == 3 and .name == "scratch" and .state == "LIVE" and .type == "null" and .size == 1073741824
		and .queues == 4 and .depth == 64 and .recovery == "none" and .node == "/dev/ublkb3" and .backing == null and .logical_block_size == 512
		and .max_io == 524288 and (.flags | index("UBLK_F_CMD_IOCTL_ENCODE") != null) and (.flags_raw | type == "number") and .uid == 0 and .gid == 0
		and .health == "healthy" and .server_pid == ` + fmt.Sprint(server) + ")"
	out, err := exec.Command("sh", "-c", `"$UBLK_BIN" list -J | jq -e "$1"`, "sh", filter).CombinedOutput()
	if err != nil || string(out) != "true\n" {
		t.Errorf("jq: %s%v; %v", out, err, run(t, "list", "-J"))
	}
}

func testInfo(t *testing.T, server int) {
	run(t, "info", "scratch").ok(t).has(t, "Device 3 (scratch)\n", "  State           LIVE, healthy\n", "  Size            1G (1073741824 bytes)\n",
		"  Queues          4, depth 64\n", "UBLK_F_CMD_IOCTL_ENCODE\n", "  Queue 3         CPUs ", fmt.Sprintf("  Process         %d (ublk)\n", server),
		"  I/O flusher     yes\n", "dev_sectors=2097152")
	r := run(t, "info", "-J", "3").ok(t)
	var document struct {
		Devices []struct {
			ID       int     `json:"id"`
			Affinity [][]int `json:"affinity"`
			Server   struct {
				PID int `json:"pid"`
			} `json:"server"`
			Users []any `json:"users"`
		} `json:"ublkdevices"`
	}
	if err := json.Unmarshal([]byte(r.stdout), &document); err != nil || len(document.Devices) != 1 {
		t.Fatalf("%v; %v", err, r)
	}
	d := document.Devices[0]
	seen := map[int]bool{}
	for _, cpus := range d.Affinity {
		for _, cpu := range cpus {
			seen[cpu] = true
		}
	}
	if d.ID != 3 || len(d.Affinity) != 4 || len(seen) != 4 || d.Server.PID != server || d.Users == nil {
		t.Errorf("%+v; %v", d, r)
	}
}

// testMistakes are command lines that make no sense, and devices that are not there.
func testMistakes(t *testing.T) {
	for _, c := range []struct {
		code int
		line string
		want []string
	}{
		{64, "", []string{"ublk: no command given", "ublk --help"}},
		{64, "lst", []string{`ublk: unknown command "lst"`, "\n  Did you mean list?\n"}},
		{64, "list --nohedings", []string{"ublk: list: unknown flag: --nohedings", "--noheadings"}},
		{64, "list -o IDD", []string{`ublk: list: unknown column "IDD"`, "did you mean ID?"}},
		{64, "add", []string{"ublk: add: which type?"}},
		{64, "add -t nul", []string{"ublk: add: ", `"nul"`, "null"}},
		{64, "add -t null --depth 5000", []string{"ublk: add: ", "5000", "4096"}},
		{64, "add -t null --name ublkb7", []string{"ublk: add: ", "kernel's own name"}},
		{64, "add -t null -f /tmp/x", []string{"ublk: add: target null has no option --file"}},
		{64, "add -t null --unprivileged", []string{"ublk: add: --unprivileged is for ordinary users"}},
		{64, "add -t null --unprivileged --recovery", []string{"exclude each other"}},
		{64, "del", []string{"ublk: del: which device?"}},
		{64, "del --all 3", []string{"exclude each other"}},
		{64, "info 3.5", []string{`ublk: info: "3.5" is no device`}},
		{64, "resize 3 12345", []string{"ublk: resize: "}},
		{4, "del 7", []string{"ublk: del: device 7: ", "no such device", "\n  Devices: 3 (scratch)\n"}},
		{4, "info /dev/ublkb7", []string{"ublk: info: device 7: ", "no such device"}},
		{4, "list 7", []string{"ublk: list: device 7: ", "no such device"}},
		{4, "list scratchy", []string{`ublk: list: no device is named "scratchy"`, "\n  Devices: 3 (scratch)\n"}},
		{4, "serve 7", []string{"ublk: serve: device 7: ", "no such device"}},
		{4, "stop 7", []string{"ublk: stop: device 7: ", "no such device"}},
		{4, "resize 7 1G", []string{"ublk: resize: device 7: ", "no such device"}},
		{1, "add -t loop -f /nonexistent", []string{"ublk: add: ", "/nonexistent: no such file or directory"}},
		{7, "add -t null -n 3", []string{"ublk: add: device 3: ADD_DEV: file exists\n  Device 3 is there already (null, LIVE, server ", "Choose another number or leave -n out."}},
	} {
		t.Run(c.line, func(t *testing.T) { run(t, strings.Fields(c.line)...).fails(t, c.code, c.want...) })
	}
	r := run(t, "list", "--noheadings", "-o", "ID", "3", "7").says(t, "ublk: list: device 7: ")
	if r.code != 3 || r.stdout != "3\n" {
		t.Errorf("of two devices one: %v", r)
	}
	r = run(t, "add", "-t", "null", "--name", "scratch")
	if r.code == 0 || !strings.Contains(r.stderr, "scratch") || !strings.Contains(r.stderr, "device 3") {
		t.Errorf("a name that is taken: %v", r)
	}
	if got := run(t, "list", "--noheadings", "-o", "ID").stdout; got != "3\n" {
		t.Errorf("devices after all that: %q", got)
	}
}

// TestLabTooManyQueues is told, and told apart in info.
func TestLabTooManyQueues(t *testing.T) {
	begin(t)
	r := run(t, "add", "-t", "null", "-q", "9", "-J").says(t, "ublk: add: warning: 4 queues instead of 9")
	var document struct {
		Devices []struct {
			ID     int `json:"id"`
			Queues int `json:"queues"`
		} `json:"ublkdevices"`
	}
	if err := json.Unmarshal([]byte(r.stdout), &document); err != nil || len(document.Devices) != 1 || document.Devices[0].Queues != 4 {
		t.Fatalf("%v; %v", err, r)
	}
	id := fmt.Sprint(document.Devices[0].ID)
	run(t, "info", id).ok(t).has(t, "  Queues          4 (of 9 asked for), depth 128\n")
	run(t, "del", id).prints(t, "")
}
