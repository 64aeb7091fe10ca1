package watch

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublk/internal/rundir"
	"ublk/internal/stats"
)

func TestLastPanic(t *testing.T) {
	const (
		live  = "2026/11/22 14:02:19 device 0: LIVE, loop\n"
		panic = "panic: oh no\n\ngoroutine 7 [running]:\nmain.main()\n\t/x.go:1 +0x2\nexit status 2\n"
		fatal = "fatal error: all is lost\n\nruntime stack:\n"
	)
	for _, tt := range []struct {
		name, log string
		since     bool
		first     string
		has       string
	}{
		{"none", live + live, false, "", ""},
		{"empty", "", true, "", ""},
		{"the last words", live + panic, true, "panic: oh no", "main.main()"},
		{"before this server", live + panic + live, true, "", ""},
		{"of any server", live + panic + live, false, "panic: oh no", "exit status 2"},
		{"the later one", live + panic + live + fatal + live, false, "fatal error: all is lost", "runtime stack"},
		{"a signal", live + "SIGSEGV: segmentation violation\nPC=0x1\n", true, "SIGSEGV: segmentation violation", "PC=0x1"},
	} {
		got := lastPanic(tt.log, 1000, tt.since)
		if firstLine(got) != tt.first || !strings.Contains(got, tt.has) || strings.Contains(got, "LIVE") {
			t.Errorf("%s: %q", tt.name, got)
		}
	}
	if got := lastPanic(panic, 8, false); got != "panic: o" {
		t.Errorf("limited: %q", got)
	}
}

func FuzzLastPanic(f *testing.F) {
	f.Add("panic: x\n2026/11/22 14:02:19 y\n", true)
	f.Fuzz(func(t *testing.T, log string, since bool) {
		if got := lastPanic(log, 100, since); len(got) > 100 || !strings.Contains(log, got) {
			t.Errorf("%q of %q", got, log)
		}
	})
}

func TestHowEnded(t *testing.T) {
	for status, want := range map[unix.WaitStatus]string{
		9: "SIGKILL", 11 | 0x80: "SIGSEGV, core dumped", 0: "exit code 0", 1 << 8: "exit code 1", 2 << 8: "exit code 2, a panic",
	} {
		if got := howEnded(status); got != want {
			t.Errorf("%#x is %q, want %q", int(status), got, want)
		}
	}
}

func TestDeath(t *testing.T) {
	dir := rundir.Root{Path: filepath.Join(t.TempDir(), "ublk")}.Dir(3)
	if err := dir.Create(); err != nil {
		t.Fatal(err)
	}
	if _, err := LastDeath(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nobody has died: %v", err)
	}
	w, err := stats.Create(dir.Stats(), 3, 2, 8)
	if err != nil {
		t.Fatal(err)
	}
	for queue, tags := range []uint16{2, 1} {
		q := w.Queue(queue)
		q.Begin(stats.Now())
		for tag := range tags {
			q.Start(tag, 1, 8, 4096)
		}
		q.End()
	}
	pid := os.Getpid()
	if n := inFlight(dir, pid); n == nil || *n != 3 {
		t.Errorf("in flight: %v, want 3", n)
	}
	if n := inFlight(dir, pid+1); n != nil {
		t.Errorf("another server's page was taken: %d", *n)
	}
	if err := NoteDeath(dir); err != nil {
		t.Fatal(err)
	}
	d, err := LastDeath(dir)
	if err != nil || d.PID != pid || *d.InFlight != 3 || d.How != "" || time.Since(d.Noticed) > time.Minute {
		t.Errorf("%+v, %v", d, err)
	}
	d.How = "SIGKILL"
	if err := d.Save(dir); err != nil {
		t.Fatal(err)
	}
	if err := NoteDeath(dir); err != nil { // a watch knew better
		t.Fatal(err)
	}
	if again, _ := LastDeath(dir); again.How != "SIGKILL" {
		t.Errorf("what the watch had seen was replaced: %+v", again)
	}
	if err := dir.RotateStats(pid); err != nil {
		t.Fatal(err)
	}
	if n := inFlight(dir, pid); n == nil || *n != 3 {
		t.Errorf("in flight by the page that was put aside: %v, want 3", n)
	}
}
