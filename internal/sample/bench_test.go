package sample

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublk/internal/sysfs"
	"ublk/tui"
)

// crowd makes so many devices: foreign ones of which a few are busy, or servers
// of ours, all of them busy, which is the most that there is to look at.
func crowd(b *testing.B, n int, ours bool) *Sampler {
	m := newMachine(b)
	disks := map[int]disk{}
	for id := range n {
		m.add(id, 1, 128)
		disks[id] = disk{reads: id}
		if ours || id%50 == 0 {
			disks[id] = disk{reads: id, inFlight: 3}
			m.inDriver(id, 3)
		}
		if ours {
			m.ours(b, id)
		}
	}
	m.disks(disks)
	s := New(Config{FS: sysfs.New(m.root), State: m.state, Driver: m})
	b.Cleanup(s.Close)
	return s
}

// eachCrowd runs a benchmark on the crowds that there are limits for.
func eachCrowd(b *testing.B, run func(*testing.B, *Sampler)) {
	for _, n := range []int{10, 500} {
		for _, kind := range []string{"foreign", "ours"} {
			b.Run(fmt.Sprintf("%s/%d", kind, n), func(b *testing.B) { run(b, crowd(b, n, kind == "ours")) })
		}
	}
}

// BenchmarkSample is one sample. At 1 Hz, 10 ms of CPU are one per cent of one.
func BenchmarkSample(b *testing.B) {
	eachCrowd(b, func(b *testing.B, s *Sampler) {
		b.ReportAllocs()
		first := time.Now()
		s.Sample(b.Context())
		took := time.Since(first)
		for b.Loop() {
			s.Sample(b.Context())
			s.Detail(b.Context(), 0, -1)
		}
		b.ReportMetric(float64(took.Microseconds())/1000, "ms/first")
	})
}

// watcher is a terminal that tells when it first shows something, and devices.
type watcher struct {
	start          time.Time
	first, devices time.Duration
}

func (w *watcher) Write(p []byte) (int, error) {
	if w.first == 0 && bytes.Contains(p, []byte("ublk top")) {
		w.first = time.Since(w.start)
	}
	if w.devices == 0 && bytes.Contains(p, []byte("STATE")) {
		w.devices = time.Since(w.start)
	}
	return len(p), nil
}

// BenchmarkScreen is the whole of `ublk top` but the driver: the screen at 1 Hz
// for some seconds. It reports the part of a CPU that it costs, in per cent, and
// when the first frame and the devices were on the screen.
func BenchmarkScreen(b *testing.B) {
	const span = 5 * time.Second
	eachCrowd(b, func(b *testing.B, s *Sampler) {
		for b.Loop() {
			before := cpuTime(b)
			ctx, cancel := context.WithTimeout(b.Context(), span)
			in, keyboard := io.Pipe() // nobody types
			out := &watcher{start: time.Now()}
			if err := tui.Run(ctx, in, out, []string{"TERM=xterm-256color"}, s, tui.Options{Colour: true}); err != nil {
				b.Fatal(err)
			}
			cancel()
			_ = keyboard.Close()
			b.ReportMetric(100*(cpuTime(b)-before).Seconds()/span.Seconds(), "%cpu")
			b.ReportMetric(float64(out.first.Microseconds())/1000, "ms/first")
			b.ReportMetric(float64(out.devices.Microseconds())/1000, "ms/devices")
		}
	})
}

// cpuTime is what this process has used of the CPUs.
func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
