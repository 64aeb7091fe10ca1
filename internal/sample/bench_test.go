package sample

import (
	"fmt"
	"testing"
	"time"

	"ublk/internal/sysfs"
)

// BenchmarkSample is one sample of so many foreign devices, a fiftieth of them
// busy. At 1 Hz, 10 ms of CPU are one per cent of one.
func BenchmarkSample(b *testing.B) {
	for _, n := range []int{10, 500} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			m := newMachine(b)
			disks := map[int]disk{}
			for id := range n {
				m.add(id, 1, 128)
				disks[id] = disk{reads: id}
				if id%50 == 0 {
					disks[id] = disk{reads: id, inFlight: 3}
					m.inDriver(id, 3)
				}
			}
			m.disks(disks)
			s := New(Config{FS: sysfs.New(m.root), State: m.state, Driver: m})
			defer s.Close()
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
}
