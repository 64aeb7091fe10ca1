package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"ublk/ctrl"
	"ublk/internal/sysfs"
)

// device is one that the program made.
type device struct {
	id   int
	arg  string // the number, as an argument
	node string
}

// add makes a device that is gone when the test ends.
func add(t testing.TB, args ...string) device {
	t.Helper()
	r := run(t, append([]string{"add"}, args...)...).ok(t)
	number, found := strings.CutPrefix(strings.TrimSuffix(r.stdout, "\n"), "/dev/ublk")
	number = strings.TrimLeft(number, "bc") // c: with --no-start
	id, err := strconv.Atoi(number)
	if !found || err != nil {
		t.Fatalf("no device; %v", r)
	}
	d := device{id, number, ctrl.BlockPath(id)}
	t.Cleanup(func() {
		if d.exists() {
			run(t, "del", "--force", "--timeout", "10", d.arg)
		}
	})
	return d
}

// exists says whether the driver has the device.
func (d device) exists() bool {
	_, err := os.Stat("/sys/class/ublk-char/ublkc" + d.arg)
	return err == nil
}

// gone waits until device, server and state are gone.
func (d device) gone(t testing.TB, server int) {
	t.Helper()
	eventually(t, "device "+d.arg+" and its server are gone", func() bool {
		_, err := os.Stat(filepath.Join(stateRoot, d.arg))
		return !d.exists() && !alive(server) && errors.Is(err, os.ErrNotExist)
	})
}

// server is the process that holds the char device.
func (d device) server(t testing.TB) int {
	t.Helper()
	pid, ok, err := sysfs.New("/").CharHolder(d.id)
	if err != nil || !ok {
		t.Fatalf("device %d has no server: %v", d.id, err)
	}
	return pid
}

// log opens the log of the device's server, which can be read after it is deleted.
func (d device) log(t testing.TB) *logFile {
	t.Helper()
	f, err := os.Open(filepath.Join(stateRoot, d.arg, "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &logFile{f}
}

type logFile struct{ f *os.File }

func (l *logFile) text() string {
	info, err := l.f.Stat()
	if err != nil {
		return ""
	}
	text := make([]byte, info.Size())
	n, _ := l.f.ReadAt(text, 0)
	return string(text[:n])
}

// waitFor waits until the log has a text.
func (l *logFile) waitFor(t testing.TB, text string) {
	t.Helper()
	eventually(t, fmt.Sprintf("the log says %q", text), func() bool { return strings.Contains(l.text(), text) })
	if t.Failed() {
		t.Logf("log:\n%s", l.text())
	}
}
