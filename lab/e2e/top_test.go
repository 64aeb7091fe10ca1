package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ublk/internal/labtest"
	"ublk/internal/sysfs"
)

// terminal is a shell in a terminal that the test types into and looks at.
type terminal struct {
	t      *testing.T
	socket string
}

func openTerminal(t *testing.T, width, height int) *terminal {
	t.Helper()
	term := &terminal{t, filepath.Join(t.TempDir(), "tmux")}
	term.tmux("-u", "new-session", "-d", "-s", "t", "-x", strconv.Itoa(width), "-y", strconv.Itoa(height),
		"env LANG=C.UTF-8 PS1='shell> ' UBLK_BIN="+os.Getenv("UBLK_BIN")+" sh")
	t.Cleanup(func() { term.tmux("kill-server") })
	term.shows("shell>")
	return term
}

func (term *terminal) tmux(args ...string) string {
	term.t.Helper()
	return labtest.Run(term.t, "tmux", append([]string{"-S", term.socket}, args...)...)
}

// keys presses keys as tmux names them.
func (term *terminal) keys(names ...string) {
	term.t.Helper()
	term.tmux(append([]string{"send-keys", "-t", "t"}, names...)...)
}

func (term *terminal) resize(width, height int) {
	term.t.Helper()
	term.tmux("resize-window", "-t", "t", "-x", strconv.Itoa(width), "-y", strconv.Itoa(height))
}

func (term *terminal) screen() string { return term.tmux("capture-pane", "-p", "-t", "t") }

// shows waits until all texts are on the screen at once.
func (term *terminal) shows(texts ...string) {
	term.t.Helper()
	screen := ""
	eventually(term.t, fmt.Sprintf("the screen shows %q", texts), func() bool {
		screen = term.screen()
		for _, text := range texts {
			if !strings.Contains(screen, text) {
				return false
			}
		}
		return true
	})
	if term.t.Failed() {
		term.t.Fatalf("the screen:\n%s", screen)
	}
}

// load keeps so many reads in flight until the test ends or the device fails.
func load(t *testing.T, node string, depth int) *exec.Cmd {
	t.Helper()
	return start(t, "fio", "--name=load", "--filename="+node, "--rw=randread", "--bs=4k", "--direct=1", "--ioengine=libaio",
		"--iodepth="+strconv.Itoa(depth), "--time_based", "--runtime=300", "--output=/dev/null")
}

// TestLabTop follows a device on the screen: down to its tags, through its
// server's death and recovery, to a clean terminal.
func TestLabTop(t *testing.T) {
	begin(t)
	idle := add(t, "-t", "null")
	d := add(t, "-t", "null", "-q", "2", "-d", "32", "--recovery", "--name", "disk-1")
	server := d.server(t)
	fio := load(t, d.node, 4)
	term := openTerminal(t, 100, 24)
	term.keys("$UBLK_BIN top; echo code $? echo $(stty -a | grep -cw -e -echo)", "Enter")
	term.shows("ublk top", "2 devices · 2 live", "every 1.0s", fmt.Sprintf(" %d ", server), "▸   "+idle.arg+" null")
	term.keys("j", "Enter")
	term.shows("device "+d.arg+" · disk-1 · null · LIVE", "THREAD", d.arg+"/q0  thread ")
	term.keys("Enter")
	term.shows("· queue 0", "in flight")
	term.resize(40, 10)
	term.shows("ublk top", "? help  q quit")
	term.resize(120, 40)
	term.keys("Escape")
	term.shows("THREAD", "+/- interval")
	term.keys("Escape")
	term.shows("SERVER", "▸   "+d.arg+" null")

	_ = fio.Process.Kill()
	_ = fio.Wait()
	kill(t, server)
	term.shows("1 live · 1 QUIESCED", fmt.Sprintf("%d gone ", server), fmt.Sprintf("server %d died", server), "recovery=requeue; ublk recover "+d.arg)
	load(t, d.node, 4)
	held := uint64(0)
	eventually(t, "fio's reads wait", func() bool {
		stat, err := sysfs.New("/").Stat(d.id)
		held = stat.InFlight
		return err == nil && held >= 4 // udev may want something, too
	})
	term.shows(fmt.Sprintf("· %d held", held), fmt.Sprintf("%d requests wait", held), "▫")
	run(t, "recover", d.arg).ok(t)
	term.shows("2 devices · 2 live", fmt.Sprintf(" %d ", d.server(t)))

	term.keys("C-z")
	term.shows("shell>")
	term.keys("fg", "Enter")
	term.shows("every 1.0s")
	term.keys("q")
	term.keys("echo again $? echo $(stty -a | grep -cw -e -echo)", "Enter")
	term.shows("again 0 echo 0")
}

// TestLabTopEnds restores the terminal after SIGTERM, and works without a size,
// without UTF-8 and without colours.
func TestLabTopEnds(t *testing.T) {
	begin(t)
	d := add(t, "-t", "null")
	term := openTerminal(t, 80, 24)
	term.keys("stty rows 0 cols 0; LANG= TERM=vt100 NO_COLOR=1 $UBLK_BIN top; echo code $? echo $(stty -a | grep -cw -e -echo)", "Enter")
	term.shows("1 device . 1 live", ">  "+d.arg+" null")
	for _, pid := range processes("ublk") {
		if cmd, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && strings.HasSuffix(string(cmd), "\x00top\x00") {
			if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
		}
	}
	term.shows("code 143 echo 0")
}

// line is a line of `ublk stat -J`.
type line struct {
	Time    time.Time `json:"time"`
	ID      int       `json:"id"`
	State   string    `json:"state"`
	Health  string    `json:"health"`
	IOPS    float64   `json:"iops"`
	Read    float64   `json:"read_bytes_per_second"`
	Errors  *int      `json:"errors"`
	Alive   bool      `json:"server_alive"`
	Command string    `json:"server_command"`
}

// watchStat runs `ublk stat -J` from before begin until after wait, and returns
// the last line of both devices, and how many requests and bytes they add up to.
func watchStat(t *testing.T, begin func() (wait func())) (last map[int]line, ios, read map[int]float64) {
	t.Helper()
	cmd := command(t, "stat", "-J", "-d", "1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	last, ios, read = map[int]line{}, map[int]float64{}, map[int]float64{}
	lines := bufio.NewScanner(out)
	begun, ended := false, make(chan struct{})
	for rest := 2; rest > 0 && lines.Scan(); { // devices take turns: all have a line after the end
		var l line
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			t.Fatalf("%v: %s", err, lines.Text())
		}
		if before, ok := last[l.ID]; ok {
			span := l.Time.Sub(before.Time).Seconds()
			ios[l.ID] += l.IOPS * span
			read[l.ID] += l.Read * span
		}
		if last[l.ID] = l; len(last) == 2 && !begun {
			begun = true
			wait := begin()
			go func() {
				wait()
				close(ended)
			}()
		}
		select {
		case <-ended:
			if l.ID == 7 {
				rest--
			}
		default:
		}
	}
	_ = cmd.Process.Signal(syscall.SIGINT)
	if code := exitCode(t, "ublk stat", cmd.Wait()); code != 130 {
		t.Errorf("interrupted, stat ends with code %d", code)
	}
	return last, ios, read
}

// foreign makes a device that kublk serves.
func foreign(t *testing.T, id int) device {
	t.Helper()
	kublk := os.Getenv("UBLK_KUBLK")
	if kublk == "" {
		t.Fatal("UBLK_KUBLK does not name kublk (lab/peers)")
	}
	d := device{id, strconv.Itoa(id), "/dev/ublkb" + strconv.Itoa(id)}
	labtest.Run(t, kublk, "add", "-t", "null", "-q", "2", "-d", "64", "-n", d.arg)
	t.Cleanup(func() { run(t, "del", "--force", "--timeout", "10", d.arg) })
	return d
}

// TestLabStat compares what is printed with what fio did, for a server of ours
// and for a foreign one.
func TestLabStat(t *testing.T) {
	begin(t)
	ours := add(t, "-t", "null", "-q", "2")
	theirs := foreign(t, 7)
	labtest.Run(t, "udevadm", "settle")
	type report struct {
		Jobs []struct {
			Read struct {
				IOs   float64 `json:"total_ios"`
				Bytes float64 `json:"io_bytes"`
			} `json:"read"`
		} `json:"jobs"`
	}
	folder := t.TempDir()
	file := func(d device) string { return filepath.Join(folder, d.arg) }
	last, ios, read := watchStat(t, func() func() {
		var jobs []*exec.Cmd
		for _, d := range []device{ours, theirs} {
			jobs = append(jobs, start(t, "fio", "--name=b", "--filename="+d.node, "--rw=randread", "--bs=8k", "--direct=1", "--ioengine=libaio",
				"--iodepth=4", "--time_based", "--runtime=5", "--rate_iops=200", "--output-format=json", "--output="+file(d)))
		}
		return func() {
			for _, fio := range jobs {
				if err := fio.Wait(); err != nil {
					t.Errorf("fio: %v", err)
				}
			}
		}
	})
	for _, d := range []device{ours, theirs} {
		text, err := os.ReadFile(file(d))
		if err != nil {
			t.Fatal(err)
		}
		var r report
		if err := json.Unmarshal(text, &r); err != nil {
			t.Fatal(err)
		}
		near := func(got, want float64) bool { return math.Abs(got/want-1) < 0.02 }
		if f := r.Jobs[0].Read; !near(ios[d.id], f.IOs) || !near(read[d.id], f.Bytes) {
			t.Errorf("device %d: %.0f requests, %.0f bytes; fio read %.0f times, %.0f bytes", d.id, ios[d.id], read[d.id], f.IOs, f.Bytes)
		}
		l := last[d.id]
		if l.State != "LIVE" || l.Health != "healthy" || !l.Alive || l.Command != map[bool]string{true: "ublk", false: "kublk"}[d == ours] || (l.Errors != nil) != (d == ours) {
			t.Errorf("device %d: %+v", d.id, l)
		}
	}
}

// TestLabTopStopped shows a foreign server that is stopped, and goes on doing so
// while somebody tries in vain to stop the device.
func TestLabTopStopped(t *testing.T) {
	begin(t)
	d := foreign(t, 7)
	load(t, d.node, 8)
	server := d.server(t)
	labtest.Freeze(t, server)
	term := openTerminal(t, 100, 24)
	term.keys("$UBLK_BIN top", "Enter")
	term.shows("1 stalled", fmt.Sprintf("%d kublk stopped", server), "8 held", fmt.Sprintf("kill -CONT %d", server))
	stop := command(t, "stop", d.arg, "--timeout", "20")
	if err := stop.Start(); err != nil {
		t.Fatal(err)
	}
	term.shows("1 wedged", "is being stopped and does not get there")
	_ = syscall.Kill(server, syscall.SIGCONT)
	term.shows("1 device · 1 DEAD")
	if err := stop.Wait(); err != nil {
		t.Errorf("stop: %v", err)
	}
	term.keys("q")
	term.shows("shell>")
}
