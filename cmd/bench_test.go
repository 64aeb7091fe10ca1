package cmd

import (
	"io"
	"testing"

	"ublk/ctrl"
	"ublk/internal/ctrldev/fake"
)

// benchCommand is what a command does on a machine with 64 LIVE devices, but for
// starting its process and the one that talks to the driver.
func benchCommand(b *testing.B, open func(*machine) (*ctrl.Client, error), args ...string) {
	const devices = 64
	m := newMachine(b, fake.Options{})
	m.most = devices
	for id := range devices {
		m.live(4000+id, 0)
	}
	m.sync()
	for b.Loop() {
		a := m.app()
		a.stdout, a.stderr = io.Discard, io.Discard
		a.open = func() (*ctrl.Client, error) { return open(m) }
		if code := a.run(args); code != 0 {
			b.Fatalf("exit code %d", code)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/1000/float64(b.N), "ms")
}

func BenchmarkList(b *testing.B) {
	benchCommand(b, func(m *machine) (*ctrl.Client, error) { return ctrl.New(m.drv), nil }, "list")
}

// BenchmarkComplete asks the driver nothing.
func BenchmarkComplete(b *testing.B) {
	benchCommand(b, func(*machine) (*ctrl.Client, error) {
		b.Error("the control node is opened")
		return nil, errNoDriver()
	}, "__complete", "info", "")
}
