package recovery

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"ublk/cmd"
	"ublk/ctrl"
	"ublk/internal/labtest"
	"ublk/internal/uapi"
	"ublk/server"
	"ublk/server/target"
)

// load is fio with checksums on a file or a disk, over and over until stop.
type load struct {
	t      testing.TB
	cancel context.CancelFunc
	ended  chan struct{}
	rounds int
}

// startLoad writes everything and reads it back, as often as there is time for.
func startLoad(t testing.TB, file, size string) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{t: t, cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(l.ended)
		for ctx.Err() == nil && !t.Failed() {
			// Not CommandContext: fio has to read back what it has written.
			out, err := exec.Command("fio", "--name=t", "--filename="+file, "--size="+size, "--ioengine=io_uring", "--direct=1", "--rw=randwrite",
				"--bsrange=4k-64k", "--iodepth=16", "--randrepeat=0", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--thread").CombinedOutput()
			if err != nil {
				t.Errorf("fio: %v\n%s", err, out)
			}
			l.rounds++
		}
	}()
	return l
}

// stop lets the last round end and returns how many there were.
func (l *load) stop() int {
	l.t.Helper()
	l.cancel()
	select {
	case <-l.ended:
	case <-time.After(2 * patience):
		l.t.Fatal("fio does not end")
	}
	return l.rounds
}

// TestLabSoakReissue kills the server of a mounted disk at random moments under
// load, and nothing but the watch brings it back. Nobody notices.
func TestLabSoakReissue(t *testing.T) {
	c := labtest.Begin(t)
	id := loopDevice(t, 256<<20, "--recovery=reissue", "-q", "2")
	folder := mounted(t, id)
	w := startWatch(t)
	l := startLoad(t, folder+"/file", "64m")
	kills := labtest.Times(20, 200)
	for range kills {
		time.Sleep(rand.N(300 * time.Millisecond))
		pid := kill(t, c, id)
		w.await("recovered", recoveredFrom(id, pid))
		if t.Failed() {
			break
		}
	}
	rounds := l.stop()
	labtest.Run(t, "umount", folder)
	labtest.Run(t, "fsck.ext4", "-f", "-n", ctrl.BlockPath(id))
	held := 0
	for _, e := range w.of("died") {
		if e.InFlight != nil {
			held += *e.InFlight
		}
	}
	t.Logf("%d kills with %d requests in flight, %d rounds of fio, no error", kills, held, rounds)
	if held == 0 {
		t.Error("no server ever held a request when it was killed")
	}
}

// TestLabUpgrade replaces the server again and again under load. Nobody notices.
func TestLabUpgrade(t *testing.T) {
	c := labtest.Begin(t)
	labtest.RequireFeature(t, c, uapi.FlagQuiesce)
	for _, mode := range []string{"requeue", "reissue"} {
		t.Run(mode, func(t *testing.T) {
			id := loopDevice(t, 64<<20, "--recovery="+mode, "-q", "2")
			w := startWatch(t) // which must keep away
			l := startLoad(t, ctrl.BlockPath(id), "32m")
			n := labtest.Times(5, 25)
			var took []time.Duration
			for range n {
				pid := info(t, c, id).ServerPID
				begun := time.Now()
				run(t, "upgrade", strconv.Itoa(id)).is(t, 0)
				took = append(took, time.Since(begun).Round(time.Millisecond))
				becomes(t, c, id, ctrl.Live, pid)
				if t.Failed() {
					break
				}
			}
			rounds := l.stop()
			if events := w.of("recovered"); len(events) > 0 {
				t.Errorf("the watch did not keep away\n%s", w.text())
			}
			t.Logf("%d upgrades, %d rounds of fio, no error; a whole command takes %v", n, rounds, took)
		})
	}
}

// TestLabUpgradeFallBack replaces a server by one that fails when the old one has
// left: a server of the old program takes over, though its file is gone. Nobody
// who uses the disk notices.
func TestLabUpgradeFallBack(t *testing.T) {
	c := labtest.Begin(t)
	labtest.RequireFeature(t, c, uapi.FlagQuiesce)
	old := filepath.Join(t.TempDir(), "old-ublk")
	labtest.Run(t, "cp", os.Getenv("UBLK_BIN"), old)
	present := os.Getenv("UBLK_BIN")
	t.Setenv("UBLK_BIN", old)
	id := loopDevice(t, 16<<20, "--recovery=reissue", "-q", "2")
	t.Setenv("UBLK_BIN", present)
	if err := os.Remove(old); err != nil {
		t.Fatal(err)
	}
	l := startLoad(t, ctrl.BlockPath(id), "8m")
	pid := info(t, c, id).ServerPID
	upgrade := exec.Command("/proc/self/exe", "upgrade", strconv.Itoa(id))
	upgrade.Env = append(os.Environ(), brokenVariable+"=1")
	out, _ := upgrade.CombinedOutput()
	for _, text := range []string{fmt.Sprintf("device %d: the new server: ", id), errBroken.Error(), "A server of the old program has taken over"} {
		if !strings.Contains(string(out), text) {
			t.Errorf("upgrade does not say %q", text)
		}
	}
	if code := upgrade.ProcessState.ExitCode(); code != 1 || t.Failed() {
		t.Fatalf("upgrade: exit code %d\n%s", code, out)
	}
	now := becomes(t, c, id, ctrl.Live, pid)
	if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", now.ServerPID)); exe != old+" (deleted)" {
		t.Errorf("the server that took over runs %s, %v", exe, err)
	}
	if rounds := l.stop(); rounds == 0 {
		t.Error("there was no load")
	}
}

// brokenVariable makes this test's program the new release that goes wrong.
const brokenVariable = "UBLK_TEST_BROKEN"

var errBroken = errors.New("this release is broken")

// broken is the program, but that its servers fail as late as they can.
func broken() int {
	if os.Args[1] != server.JobCommand {
		return cmd.Main()
	}
	err := server.ServeJob(func(c server.Config) (server.Target, error) {
		t, err := target.Open(c)
		return brokenTarget{t}, err
	}, nil)
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// brokenTarget opens, fits the device, and cannot be served.
type brokenTarget struct{ server.Target }

func (t brokenTarget) Modes() []server.DataMode { return t.Target.(server.Moder).Modes() }

func (brokenTarget) Queue(*server.Queue) (server.Handler, error) { return nil, errBroken }
