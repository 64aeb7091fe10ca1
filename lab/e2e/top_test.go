package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

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
	term.shows("ublk top", "2 devices · 2 live", "every 1.0s", fmt.Sprintf(" %d ", server), "▸   "+idle.arg+" -      null")
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
	term.shows("SERVER", "▸   "+d.arg+" disk-1 null")

	_ = fio.Process.Kill()
	_ = fio.Wait()
	kill(t, server)
	term.shows("1 live · 1 QUIESCED", fmt.Sprintf("%d gone ", server), fmt.Sprintf("server %d died", server), "recovery=requeue; ublk recover "+d.arg)
	load(t, d.node, 4)
	eventually(t, "the screen shows how many requests wait", func() bool { // of fio, and of udev
		stat, err := sysfs.New("/").Stat(d.id)
		screen := term.screen()
		return err == nil && stat.InFlight >= 4 && strings.Contains(screen, fmt.Sprintf("· %d held", stat.InFlight)) &&
			strings.Contains(screen, fmt.Sprintf("%d requests wait", stat.InFlight)) && strings.Contains(screen, "▫")
	})
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
