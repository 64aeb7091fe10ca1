// Package recovery tests on a real driver what happens when servers die: that
// ublk recover, watch and upgrade bring devices back, and that their users do
// not notice. The program is $UBLK_BIN. For the lab alone.
package recovery

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/internal/labtest"
	"ublk/internal/watch"
)

// patience bounds every wait. An emulated guest on a busy machine is slow.
const patience = 60 * time.Second

// few does something n times, some at the same time.
func few(n int, do func(i int)) {
	var g errgroup.Group
	g.SetLimit(4)
	for i := range n {
		g.Go(func() error { do(i); return nil })
	}
	_ = g.Wait()
}

// result is what one run of the program left.
type result struct {
	line           string
	code           int
	stdout, stderr string
}

// run runs the program, which must end in time whatever it meets.
func run(t testing.TB, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Getenv("UBLK_BIN"), args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if ctx.Err() != nil {
		t.Fatalf("ublk %s hangs\n%s%s", strings.Join(args, " "), &stdout, &stderr)
	}
	return result{strings.Join(args, " "), cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

func (r result) String() string {
	return fmt.Sprintf("ublk %s: exit code %d\nstdout: %s\nstderr: %s", r.line, r.code, r.stdout, r.stderr)
}

// is a run with an exit code and these texts on stderr.
func (r result) is(t testing.TB, code int, texts ...string) result {
	t.Helper()
	if r.code != code {
		t.Errorf("want exit code %d; %v", code, r)
	}
	for _, text := range texts {
		if !strings.Contains(r.stderr, text) {
			t.Errorf("stderr lacks %q; %v", text, r)
		}
	}
	return r
}

// add makes a device.
func add(t testing.TB, args ...string) int {
	t.Helper()
	r := run(t, append([]string{"add"}, args...)...)
	id, err := strconv.Atoi(strings.TrimPrefix(strings.TrimSpace(r.stdout), "/dev/ublkb"))
	if r.code != 0 || err != nil {
		t.Fatalf("no device; %v", r)
	}
	return id
}

// loopDevice makes a device in a new file.
func loopDevice(t testing.TB, bytes int64, args ...string) int {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, bytes); err != nil {
		t.Fatal(err)
	}
	return add(t, append([]string{"-t", "loop", "-f", file}, args...)...)
}

func info(t testing.TB, c *ctrl.Client, id int) ctrl.DevInfo {
	t.Helper()
	i, err := c.Info(context.WithoutCancel(t.Context()), id)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// kill kills the server of a device and returns who it was.
func kill(t testing.TB, c *ctrl.Client, id int) int {
	t.Helper()
	pid := info(t, c, id).ServerPID
	if pid <= 0 {
		t.Fatalf("device %d has no server", id)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	return pid
}

// becomes waits until a device is in a state, with another server than not.
func becomes(t testing.TB, c *ctrl.Client, id int, state ctrl.State, not int) ctrl.DevInfo {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		i := info(t, c, id)
		if i.State == state && i.ServerPID != not && (state != ctrl.Live || i.ServerPID > 0) {
			return i
		}
		if time.Now().After(deadline) {
			t.Fatalf("device %d is %s with server %d, not %s", id, i.State, i.ServerPID, state)
		}
		time.Sleep(2 * time.Millisecond) // the kernel announces nothing
	}
}

// watcher is a running ublk watch.
type watcher struct {
	t   testing.TB
	cmd *exec.Cmd

	mu     sync.Mutex
	events []watch.Event
	news   chan struct{} // closed and replaced with every event
	ended  chan struct{}
}

// startWatch starts ublk watch and returns when it is ready.
func startWatch(t testing.TB, args ...string) *watcher {
	t.Helper()
	w := &watcher{t: t, news: make(chan struct{}), ended: make(chan struct{})}
	w.cmd = exec.Command(os.Getenv("UBLK_BIN"), append([]string{"watch", "-J", "--burst", "100000"}, args...)...)
	w.cmd.Stderr = os.Stderr
	out, err := w.cmd.StdoutPipe()
	if err == nil {
		err = w.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	go w.read(out)
	t.Cleanup(w.stop)
	w.await("ready", func(e watch.Event) bool { return e.Kind == watch.Ready })
	return w
}

func (w *watcher) read(out io.Reader) {
	defer close(w.ended)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var e watch.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			w.t.Errorf("watch printed %q: %v", lines.Text(), err)
			continue
		}
		w.mu.Lock()
		w.events = append(w.events, e)
		close(w.news)
		w.news = make(chan struct{})
		w.mu.Unlock()
	}
}

// await waits for an event, also one that came before.
func (w *watcher) await(what string, is func(watch.Event) bool) watch.Event {
	w.t.Helper()
	deadline := time.After(patience)
	for {
		w.mu.Lock()
		i, news := slices.IndexFunc(w.events, is), w.news
		var e watch.Event
		if i >= 0 {
			e = w.events[i]
		}
		w.mu.Unlock()
		if i >= 0 {
			return e
		}
		select {
		case <-news:
		case <-w.ended:
			w.t.Fatalf("watch ended before %s\n%s", what, w.text())
		case <-deadline:
			w.t.Fatalf("no event %s\n%s", what, w.text())
		}
	}
}

// of returns what has been reported of a kind.
func (w *watcher) of(kind watch.Kind) (events []watch.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if e.Kind == kind {
			events = append(events, e)
		}
	}
	return events
}

func (w *watcher) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var b strings.Builder
	for _, e := range w.events {
		fmt.Fprintln(&b, e)
	}
	return b.String()
}

// stop ends the watch, which must be quick and a success.
func (w *watcher) stop() {
	if w.cmd.ProcessState != nil {
		return
	}
	_ = w.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-w.ended:
	case <-time.After(patience):
		w.t.Errorf("watch does not end")
		_ = w.cmd.Process.Kill()
	}
	if err := w.cmd.Wait(); err != nil {
		w.t.Errorf("watch: %v", err)
	}
	if w.t.Failed() {
		w.t.Logf("watch:\n%s", w.text())
	}
}

// recoveredFrom is the recovery that followed the death of server pid.
func recoveredFrom(id, pid int) func(watch.Event) bool {
	return func(e watch.Event) bool { return e.Kind == watch.Recovered && e.ID == id && e.OldPID == pid }
}

func about(id int, kind watch.Kind) func(watch.Event) bool {
	return func(e watch.Event) bool { return e.ID == id && e.Kind == kind }
}

// mounted makes a file system on a device and mounts it until the test ends.
func mounted(t testing.TB, id int) string {
	t.Helper()
	folder := t.TempDir()
	labtest.Run(t, "mkfs.ext4", "-q", "-F", ctrl.BlockPath(id))
	labtest.Run(t, "mount", ctrl.BlockPath(id), folder)
	return folder
}
