package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ublk/internal/labtest"
)

// The load of TestLabStat: so many reads of a disk that takes so long for each.
const (
	statDepth = 4
	statDelay = 5 * time.Millisecond
)

// line is a line of `ublk stat -J`.
type line struct {
	Time     time.Time `json:"time"`
	ID       int       `json:"id"`
	State    string    `json:"state"`
	Health   string    `json:"health"`
	InFlight int       `json:"in_flight"`
	IOPS     float64   `json:"iops"`
	Read     float64   `json:"read_bytes_per_second"`
	P50      *float64  `json:"p50_ns"`
	P90      *float64  `json:"p90_ns"`
	P99      *float64  `json:"p99_ns"`
	Errors   *int      `json:"errors"`
	Alive    bool      `json:"server_alive"`
	Command  string    `json:"server_command"`
}

// watched is what stat printed of one device.
type watched struct {
	last      line
	ios, read float64       // requests and bytes, all in all
	inFlight  int           // at most
	quantiles [3][2]float64 // of P50, P90 and P99 the least and the most
}

func (w *watched) add(l line) {
	if !w.last.Time.IsZero() {
		span := l.Time.Sub(w.last.Time).Seconds()
		w.ios += l.IOPS * span
		w.read += l.Read * span
	}
	w.last, w.inFlight = l, max(w.inFlight, l.InFlight)
	for i, q := range []*float64{l.P50, l.P90, l.P99} {
		if q == nil {
			continue
		}
		if w.quantiles[i][0] == 0 || *q < w.quantiles[i][0] {
			w.quantiles[i][0] = *q
		}
		w.quantiles[i][1] = max(w.quantiles[i][1], *q)
	}
}

func (w *watched) String() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%.0f requests, %.0f bytes, at most %d in flight", w.ios, w.read, w.inFlight)
	for i, name := range []string{"P50", "P90", "P99"} {
		fmt.Fprintf(&text, ", %s %v to %v", name, time.Duration(w.quantiles[i][0]), time.Duration(w.quantiles[i][1]))
	}
	return text.String()
}

// watchStat runs `ublk stat -J` from before begin until after wait.
func watchStat(t *testing.T, devices []device, begin func() (wait func())) map[int]*watched {
	t.Helper()
	args := []string{"stat", "-J", "-d", "0.5"}
	for _, d := range devices {
		args = append(args, d.arg)
	}
	cmd := command(t, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	seen := map[int]*watched{}
	for _, d := range devices {
		seen[d.id] = &watched{}
	}
	final := devices[len(devices)-1].id // its line is the last of a sample
	lines := bufio.NewScanner(out)
	begun, ended := false, make(chan struct{})
	for rest := 2; rest > 0 && lines.Scan(); { // a sample may have been under way at the end
		var l line
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			t.Fatalf("%v: %s", err, lines.Text())
		}
		seen[l.ID].add(l)
		if l.ID != final {
			continue
		}
		if !begun {
			begun = true
			wait := begin()
			go func() {
				wait()
				close(ended)
			}()
		}
		select {
		case <-ended:
			rest--
		default:
		}
	}
	_ = cmd.Process.Signal(syscall.SIGINT)
	if code := exitCode(t, "ublk stat", cmd.Wait()); code != 130 {
		t.Errorf("interrupted, stat ends with code %d", code)
	}
	return seen
}

// foreign makes a device that kublk serves: of type null, or as options say.
func foreign(t *testing.T, id int, options ...string) device {
	t.Helper()
	kublk := os.Getenv("UBLK_KUBLK")
	if kublk == "" {
		t.Fatal("UBLK_KUBLK does not name kublk (lab/peers)")
	}
	d := device{id, strconv.Itoa(id), "/dev/ublkb" + strconv.Itoa(id)}
	if options == nil {
		options = []string{"-t", "null"}
	}
	labtest.Run(t, kublk, append([]string{"add", "-q", "2", "-d", "64", "-n", d.arg}, options...)...)
	t.Cleanup(func() { run(t, "del", "--force", "--timeout", "10", d.arg) })
	return d
}

// fioReport is what fio saw of its reads.
type fioReport struct {
	IOs     float64 `json:"total_ios"`
	Bytes   float64 `json:"io_bytes"`
	Latency struct {
		Percentile map[string]float64 `json:"percentile"`
	} `json:"clat_ns"`
}

// readAll has fio read all devices at once.
func readAll(t *testing.T, devices []device, seconds int) (wait func() map[int]fioReport) {
	t.Helper()
	folder := t.TempDir()
	var jobs []*exec.Cmd
	for _, d := range devices {
		jobs = append(jobs, start(t, "fio", "--name=b", "--filename="+d.node, "--rw=randread", "--bs=8k", "--direct=1", "--ioengine=libaio",
			"--iodepth="+strconv.Itoa(statDepth), "--time_based", "--runtime="+strconv.Itoa(seconds), "--percentile_list=50:90:99",
			"--output-format=json", "--output="+filepath.Join(folder, d.arg)))
	}
	return func() map[int]fioReport {
		reports := map[int]fioReport{}
		for i, d := range devices {
			if err := jobs[i].Wait(); err != nil {
				t.Errorf("fio: %v", err)
			}
			var all struct {
				Jobs []struct {
					Read fioReport `json:"read"`
				} `json:"jobs"`
			}
			text, err := os.ReadFile(filepath.Join(folder, d.arg))
			if err == nil {
				err = json.Unmarshal(text, &all)
			}
			if err != nil || len(all.Jobs) != 1 {
				t.Errorf("fio's report: %v", err)
				continue
			}
			reports[d.id] = all.Jobs[0].Read
		}
		return reports
	}
}

// TestLabStat compares what is printed with what fio saw, for a server of ours
// and for a foreign one.
func TestLabStat(t *testing.T) {
	begin(t)
	slow := []string{"-t", "fault", "--on", "mem", "--size", "256M", "--delay", statDelay.String(), "-q", strconv.Itoa(min(2, runtime.NumCPU()))}
	ours, backing := add(t, slow...), add(t, slow...)
	theirs := foreign(t, 7, "-t", "loop", backing.node)
	devices := []device{ours, theirs}
	labtest.Run(t, "udevadm", "settle")
	seconds := 4
	if os.Getenv("UBLK_LONG") != "" {
		seconds = 10
	}
	// Latencies are compared on a machine that may be busy with something else for
	// a while: fio waits for a CPU, too. What is wrong stays so.
	var apart string
	for range 4 {
		var reports map[int]fioReport
		seen := watchStat(t, devices, func() func() {
			wait := readAll(t, devices, seconds)
			return func() { reports = wait() }
		})
		for _, d := range devices {
			checkCounts(t, d, seen[d.id], reports[d.id])
		}
		for _, d := range devices {
			l := seen[d.id].last
			if l.State != "LIVE" || l.Health != "healthy" || !l.Alive || l.Command != map[bool]string{true: "ublk", false: "kublk"}[d == ours] || (l.Errors != nil) != (d == ours) {
				t.Errorf("device %d: %+v", d.id, l)
			}
		}
		if seen[theirs.id].quantiles != [3][2]float64{} {
			t.Errorf("a foreign server has percentiles: %v", seen[theirs.id].quantiles)
		}
		t.Logf("ours: %v", seen[ours.id])
		t.Logf("theirs: %v", seen[theirs.id])
		if apart = latenciesApart(seen[ours.id], reports[ours.id]); apart == "" || t.Failed() {
			break
		}
		t.Log(apart)
	}
	if apart != "" {
		t.Error(apart)
	}
}

// checkCounts compares requests and bytes, to 2 %, and how many were in flight.
func checkCounts(t *testing.T, d device, w *watched, f fioReport) {
	t.Helper()
	t.Logf("device %d: fio: %.0f requests, %.0f bytes, %v", d.id, f.IOs, f.Bytes, f.Latency.Percentile)
	near := func(got, want float64) bool { return math.Abs(got/want-1) < 0.02 }
	if !near(w.ios, f.IOs) || !near(w.read, f.Bytes) {
		t.Errorf("device %d: %.0f requests, %.0f bytes; fio read %.0f times, %.0f bytes", d.id, w.ios, w.read, f.IOs, f.Bytes)
	}
	if w.inFlight != statDepth {
		t.Errorf("device %d: at most %d requests in flight, not %d", d.id, w.inFlight, statDepth)
	}
}

// latenciesApart says which percentile of fio's is not between those of the
// intervals, as that of a whole is between those of its parts, give or take a
// bucket of an eighth. fio's may be longer where its own way to the disk and back
// takes an emulated machine a millisecond or more; with UBLK_EXACT it does not
// (lab/run --icount).
func latenciesApart(w *watched, f fioReport) string {
	const bucket = 9.0 / 8
	most := 2.0
	if os.Getenv("UBLK_EXACT") != "" {
		most = bucket
	}
	for i, name := range []string{"50.000000", "90.000000", "99.000000"} {
		got, want := w.quantiles[i], f.Latency.Percentile[name]
		if got[0] < float64(statDelay)/bucket || want < got[0]/bucket || want > got[1]*most {
			return fmt.Sprintf("P%s: from %v to %v, fio's %v", name[:2], time.Duration(got[0]), time.Duration(got[1]), time.Duration(want))
		}
	}
	return ""
}
