package watch

import (
	"net"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

func TestNotify(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if err := Notify("READY=1"); err != nil {
		t.Errorf("without a manager: %v", err)
	}
	path := filepath.Join(t.TempDir(), "n")
	conn, err := net.ListenPacket("unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	if err := Notify("READY=1", "STATUS=fine"); err != nil {
		t.Fatal(err)
	}
	var buffer [100]byte
	n, _, err := conn.ReadFrom(buffer[:])
	if err != nil || string(buffer[:n]) != "READY=1\nSTATUS=fine" {
		t.Errorf("%q, %v", buffer[:n], err)
	}
}

func TestWatchdogInterval(t *testing.T) {
	for _, tt := range []struct {
		usec, pid string
		want      time.Duration
	}{
		{"", "", 0}, {"30000000", "", 15 * time.Second}, {"x", "", 0}, {"-1", "", 0}, {"30000000", strconv.Itoa(1), 0},
	} {
		t.Setenv("WATCHDOG_USEC", tt.usec)
		t.Setenv("WATCHDOG_PID", tt.pid)
		if got := WatchdogInterval(); got != tt.want {
			t.Errorf("%q for process %q: %v, want %v", tt.usec, tt.pid, got, tt.want)
		}
	}
}
