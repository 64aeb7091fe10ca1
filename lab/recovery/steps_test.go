package recovery

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/internal/ctrldev"
	"ublk/internal/labtest"
	"ublk/internal/uapi"
	"ublk/server"
	"ublk/server/target/null"
)

// A server that stops at one step of the protocol, to be killed there. It is
// this test's own program, started again.

// stepVariable says, in JSON, what such a process does.
const stepVariable = "UBLK_TEST_STEP"

// step is a place in the protocol.
type step struct {
	Op     string // control command; "FETCH": the fetches of the last queue; "": none, it serves
	Before bool
	ID     int  // of the device to recover; -1: add one
	Hold   bool // answer no request
}

const diskBytes = 1 << 30

func TestMain(m *testing.M) {
	if os.Getenv(brokenVariable) != "" {
		os.Exit(broken())
	}
	if text := os.Getenv(stepVariable); text != "" {
		var s step
		err := json.Unmarshal([]byte(text), &s)
		if err == nil {
			err = s.serve()
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// reached says that the step has been, and stays there.
func reached(id int) {
	fmt.Println("reached", id)
	select {}
}

// stepDriver stops before or after a control command.
type stepDriver struct {
	ctrldev.Driver
	step step
	id   int
}

func (d *stepDriver) Submit(ctx context.Context, c *ctrldev.Command) (int32, error) {
	hit := map[string]uint32{
		"ADD_DEV": uapi.CmdAddDev, "SET_PARAMS": uapi.CmdSetParams, "START_DEV": uapi.CmdStartDev,
		"START_USER_RECOVERY": uapi.CmdStartUserRecovery, "END_USER_RECOVERY": uapi.CmdEndUserRecovery,
	}[d.step.Op] == c.Op
	if hit && d.step.Before {
		reached(int(c.DevID))
	}
	res, err := d.Driver.Submit(ctx, c)
	if hit && err == nil {
		id := int(c.DevID)
		if c.Op == uapi.CmdAddDev {
			id = d.id
		}
		reached(id)
	}
	return res, err
}

// stepTarget is a null disk whose last queue may never fetch, and which may hold
// what it is given.
type stepTarget struct {
	*null.Target
	step   step
	queues int
	seen   chan struct{}
	id     func() int
}

func (t *stepTarget) Queue(q *server.Queue) (server.Handler, error) {
	t.seen <- struct{}{}
	if t.step.Op == "FETCH" && len(t.seen) == t.queues {
		reached(t.id())
	}
	h, err := t.Target.Queue(q)
	if t.step.Hold {
		h = holder{h}
	}
	return h, err
}

// holdAt is where a holder never answers; whoever looks for partitions and file
// systems does not come there.
const holdAt = diskBytes / 2

type holder struct{ server.Handler }

func (h holder) Handle(r *server.Request) {
	if r.Offset() != holdAt {
		h.Handler.Handle(r)
	}
}

// serve goes to the step.
func (s step) serve() error {
	ctx := context.Background()
	drv, err := ctrldev.Open()
	if err != nil {
		return err
	}
	const fixed = 77 // known before ADD_DEV answers
	client := ctrl.New(&stepDriver{Driver: drv, step: s, id: fixed})
	cfg := server.Config{Type: "null", Queues: 2, Depth: 16, Recovery: ctrl.RecoveryReissue, Options: map[string]string{"size": "1G"}}
	id := s.ID
	target := &stepTarget{Target: null.New(diskBytes), step: s, queues: 2, seen: make(chan struct{}, 2), id: func() int { return id }}
	var device *server.Device
	if s.ID < 0 {
		id = fixed
		device, _, err = server.Create(ctx, client, server.Job{Action: server.ActionAdd, ID: fixed, Config: cfg}, target)
	} else {
		device, err = server.Attach(ctx, client, s.ID, cfg, target)
	}
	if err != nil {
		return err
	}
	if err := device.Start(ctx); err != nil {
		return err
	}
	reached(id)
	return nil
}

// start starts the process and returns when it is at the step.
func (s step) start(t *testing.T) (server *exec.Cmd, id int) {
	t.Helper()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	server = exec.Command("/proc/self/exe")
	server.Env = append(os.Environ(), stepVariable+"="+string(text))
	server.Stderr = os.Stderr
	out, err := server.StdoutPipe()
	if err == nil {
		err = server.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the server did not get there: %v", err)
	}
	number, _ := strings.CutPrefix(strings.TrimSpace(line), "reached ")
	if id, err = strconv.Atoi(number); err != nil {
		t.Fatalf("the server says %q", line)
	}
	return server, id
}

// TestLabKillSteps kills a server at every step. What it leaves can always be
// recovered or deleted, and no command hangs.
func TestLabKillSteps(t *testing.T) {
	c := labtest.Begin(t)
	add := []step{
		{Op: "ADD_DEV"}, {Op: "SET_PARAMS", Before: true}, {Op: "SET_PARAMS"}, {Op: "FETCH"},
		{Op: "START_DEV", Before: true}, {Op: "START_DEV"}, {},
	}
	recovery := []step{
		{Op: "START_USER_RECOVERY", Before: true}, {Op: "START_USER_RECOVERY"}, {Op: "FETCH"},
		{Op: "END_USER_RECOVERY", Before: true}, {Op: "END_USER_RECOVERY"}, {},
	}
	for _, s := range add {
		s.ID = -1
		t.Run(s.name("add"), func(t *testing.T) {
			server, id := s.start(t)
			killAt(t, c, server, id)
		})
	}
	for _, s := range recovery {
		t.Run(s.name("recovery"), func(t *testing.T) {
			first, id := step{ID: -1}.start(t)
			_ = first.Process.Kill()
			_ = first.Wait()
			becomes(t, c, id, ctrl.Quiesced, 0)
			s.ID = id
			server, _ := s.start(t)
			killAt(t, c, server, id)
		})
	}
}

func (s step) name(of string) string {
	switch {
	case s.Op == "":
		return of + "/live"
	case s.Before || s.Op == "FETCH":
		return of + "/before " + s.Op
	}
	return of + "/after " + s.Op
}

// killAt kills a server and cleans up after it with the program's commands.
func killAt(t *testing.T, c *ctrl.Client, server *exec.Cmd, id int) {
	t.Helper()
	if err := server.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = server.Wait()
	name := strconv.Itoa(id)
	// One that was killed before it was LIVE leaves the state as it was; a LIVE one
	// becomes QUIESCED.
	for deadline := time.Now().Add(patience); info(t, c, id).State == ctrl.Live; {
		if time.Now().After(deadline) {
			t.Fatal("the device is LIVE still")
		}
		time.Sleep(2 * time.Millisecond)
	}
	if info(t, c, id).State != ctrl.Dead {
		run(t, "recover", name).is(t, 0)
		f, err := os.Open(ctrl.BlockPath(id))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.ReadAt(make([]byte, 4096), 12345*4096); err != nil {
			t.Error(err)
		}
		f.Close()
	}
	run(t, "del", name).is(t, 0)
}

// TestLabKillInStop kills a server that holds a request while the device is being
// stopped: the stop ends.
func TestLabKillInStop(t *testing.T) {
	c := labtest.Begin(t)
	server, id := step{ID: -1, Hold: true}.start(t)
	f, err := os.OpenFile(ctrl.BlockPath(id), os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	buffer, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANONYMOUS|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() {
		_, err := f.ReadAt(buffer, holdAt)
		read <- err
	}()
	for n := uint64(0); n == 0; {
		text, err := os.ReadFile(fmt.Sprintf("/sys/block/ublkb%d/inflight", id))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = fmt.Sscan(string(text), &n)
	}
	r := run(t, "stop", strconv.Itoa(id), "--timeout", "1")
	r.is(t, 8)
	if err := unix.Kill(server.Process.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	becomes(t, c, id, ctrl.Dead, server.Process.Pid)
	select {
	case err := <-read:
		if err == nil {
			t.Error("a read that was never answered succeeded")
		}
	case <-time.After(patience):
		t.Error("the read hangs")
	}
	_ = server.Wait()
	f.Close()
	run(t, "del", strconv.Itoa(id)).is(t, 0)
}
