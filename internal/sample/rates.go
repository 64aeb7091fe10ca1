package sample

import (
	"time"

	"ublk/internal/stats"
	"ublk/internal/sysfs"
	"ublk/tui"
)

// sectorBytes is the block layer's unit, whatever the logical block size.
const sectorBytes = 512

// diskRates is what the disk did between two moments; nil if that cannot be told.
func diskRates(before, after moment) *tui.Rates {
	span := after.at.Sub(before.at)
	if before.at.IsZero() || !before.disk || !after.disk || span <= 0 || backwards(before.stat, after.stat) {
		return nil
	}
	s := after.stat.Since(before.stat)
	seconds := span.Seconds()
	per := func(n uint64) float64 { return float64(n) / seconds }
	return &tui.Rates{
		Reads: per(s.Read.Ops), Writes: per(s.Write.Ops), Others: per(s.Discard.Ops + s.FlushOps),
		ReadBytes: per(s.Read.Sectors * sectorBytes), WriteBytes: per(s.Write.Sectors * sectorBytes),
		ReadTime: meanMillis(s.Read), WriteTime: meanMillis(s.Write),
		InFlight: float64(s.WeightedMillis) / 1000 / seconds, Busy: min(float64(s.BusyMillis)/1000/seconds, 1),
		Span: span,
	}
}

// backwards says whether after is of another disk: its counters started anew.
func backwards(before, after sysfs.Stat) bool {
	return after.Read.Ops < before.Read.Ops || after.Write.Ops < before.Write.Ops || after.Discard.Ops < before.Discard.Ops ||
		after.FlushOps < before.FlushOps || after.Read.Sectors < before.Read.Sectors || after.Write.Sectors < before.Write.Sectors
}

func meanMillis(c sysfs.Counts) time.Duration {
	if c.Ops == 0 {
		return tui.Unknown
	}
	return time.Duration(float64(c.Millis) / float64(c.Ops) * float64(time.Millisecond))
}

// cpuUse is how many CPUs the server used between two moments.
func cpuUse(before, after moment) float64 {
	p, q := before.process, after.process
	span := after.at.Sub(before.at)
	if p == nil || q == nil || p.PID != q.PID || p.StartTicks != q.StartTicks || span <= 0 {
		return tui.Unknown
	}
	return max((q.CPU-p.CPU).Seconds()/span.Seconds(), 0)
}

// latencyOf is the latency of reads and writes between two readings of one
// server's page, on one queue or (-1) all.
func latencyOf(before, after *reading, queue int) tui.Latency {
	if !sameServer(before, after) {
		return tui.NoLatency()
	}
	var sum stats.Histogram
	for i, q := range after.queues {
		if queue >= 0 && i != queue {
			continue
		}
		for _, kind := range []stats.Kind{stats.Read, stats.Write} {
			sum.Add(&q.Hist[kind])
			sum.Sub(&before.queues[i].Hist[kind])
		}
	}
	at := func(p float64) time.Duration {
		ns, ok := sum.Quantile(p)
		if !ok || ns == 0 {
			return tui.Unknown
		}
		return time.Duration(ns)
	}
	return tui.Latency{P50: at(0.5), P90: at(0.9), P99: at(0.99), P999: at(0.999)}
}

// sameServer says whether two readings are of one server.
func sameServer(before, after *reading) bool {
	return before != nil && after != nil && before.pid == after.pid && len(before.queues) == len(after.queues)
}

// queueRates is what a server of ours did on one queue between two readings.
func queueRates(before, after *reading, queue int) *tui.Rates {
	if !sameServer(before, after) || queue >= len(after.queues) || after.at <= before.at {
		return nil
	}
	span := time.Duration(after.at - before.at)
	var r tui.Rates
	for kind := range stats.Kinds {
		c, b := after.queues[queue].Count[kind], before.queues[queue].Count[kind]
		ios, bytes := float64(c.IOs-b.IOs)/span.Seconds(), float64(c.Bytes-b.Bytes)/span.Seconds()
		switch kind {
		case stats.Read:
			r.Reads, r.ReadBytes = ios, bytes
		case stats.Write:
			r.Writes, r.WriteBytes = ios, bytes
		default:
			r.Others += ios
		}
	}
	r.ReadTime, r.WriteTime, r.Span = tui.Unknown, tui.Unknown, span
	return &r
}

func queueErrors(q *stats.Sample) int64 {
	var n uint64
	for _, c := range q.Count {
		n += c.Errors
	}
	return int64(n)
}
