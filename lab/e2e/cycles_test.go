package e2e

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestLabCycles adds and deletes devices by the command line, four side by side
// and each deleted the moment it is there, when udev is looking at it. No cycle
// fails, and nothing stays.
func TestLabCycles(t *testing.T) {
	begin(t)
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for cycle := 0; cycle < 13 && !t.Failed(); cycle++ {
				name := fmt.Sprintf("w%d-%d", worker, cycle)
				r := run(t, "add", "-t", "null", "-q", "2", "--name", name).ok(t)
				if !strings.HasPrefix(r.stdout, "/dev/ublkb") {
					t.Errorf("no node; %v", r)
				}
				run(t, "del", name).prints(t, "")
			}
		})
	}
	wg.Wait()
}

// TestLabInterruptedAdd presses Ctrl-C while a device is being made, at any
// moment of it: either it came to be before, or it did not at all.
func TestLabInterruptedAdd(t *testing.T) {
	begin(t)
	whole := run(t, "add", "-t", "null", "-n", "0").prints(t, "/dev/ublkb0\n").took
	run(t, "del", "0").ok(t)
	var codes sync.Map
	var wg sync.WaitGroup
	for worker := range 2 {
		wg.Go(func() {
			for round := range 10 {
				id := fmt.Sprint(worker*100 + round)
				code := interruptAdd(t, id, time.Duration(rand.Int64N(int64(whole+whole/2))))
				codes.Store(code, true)
			}
		})
	}
	wg.Wait()
	if _, interrupted := codes.Load(130); !interrupted {
		t.Error("no add was interrupted")
	}
}

// interruptAdd sends SIGINT to the process group, as a terminal does.
func interruptAdd(t *testing.T, id string, after time.Duration) int {
	cmd := command(t, "add", "-t", "null", "-n", id)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	wait := launch(t, cmd)
	timer := time.AfterFunc(after, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) })
	r := wait()
	timer.Stop()
	switch d := (device{arg: id}); {
	case r.code == 0:
		run(t, "del", id).ok(t)
	case r.code != 130 || r.stdout != "":
		t.Errorf("after %v: %v", after, r)
	case d.exists():
		t.Errorf("after %v the device is there; %v", after, r)
	}
	return r.code
}
