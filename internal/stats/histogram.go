package stats

import "math/bits"

// Latencies are counted in buckets of eight steps to the power of two, so a
// bucket is at most an eighth wide: 0-7 ns exactly, the last one open.
const (
	subBits    = 3
	subSteps   = 1 << subBits
	maxExp     = 40 // 2^40 ns, 18 minutes
	Buckets    = (maxExp - subBits + 1) * subSteps
	histograms = 3 // read, write, everything else
)

// histOf is the histogram that a kind is counted in.
func histOf(k Kind) int { return int(min(k, Flush)) }

// bucketOf is the bucket of a latency in nanoseconds. Small enough to inline.
func bucketOf(ns uint64) int {
	if ns < subSteps {
		return int(ns)
	}
	e := bits.Len64(ns) - 1 - subBits
	return min(e<<subBits+int(ns>>e), Buckets-1)
}

// bucketRange is the first and the last latency of a bucket.
func bucketRange(i int) (lo, hi uint64) {
	if i < subSteps {
		return uint64(i), uint64(i)
	}
	e := i>>subBits - 1
	lo = uint64(i-e<<subBits) << e
	if i == Buckets-1 {
		return lo, ^uint64(0)
	}
	return lo, lo + 1<<e - 1
}

// Histogram counts latencies; the zero value is empty.
type Histogram [Buckets]uint64

// Add adds o, as when the queues of a device are summed up.
func (h *Histogram) Add(o *Histogram) {
	for i, n := range o {
		h[i] += n
	}
}

// Sub removes an earlier reading, leaving what was counted since.
func (h *Histogram) Sub(o *Histogram) {
	for i, n := range o {
		h[i] -= n
	}
}

// Total is the number of latencies counted.
func (h *Histogram) Total() uint64 {
	var n uint64
	for _, c := range h {
		n += c
	}
	return n
}

// Quantile is the latency in nanoseconds that the part p (0..1) of all did not
// exceed, to the width of a bucket (its middle is given); false when empty. The
// clock is read once a batch: 0 is a request that was answered in the batch that
// it came in, and how long that took is not known.
func (h *Histogram) Quantile(p float64) (uint64, bool) {
	total := h.Total()
	if total == 0 {
		return 0, false
	}
	rank := uint64(p * float64(total))
	if rank >= total {
		rank = total - 1
	}
	var seen uint64
	for i, n := range h {
		if seen += n; seen > rank {
			lo, hi := bucketRange(i)
			if i == Buckets-1 {
				return lo, true
			}
			return lo + (hi-lo)/2, true
		}
	}
	return 0, false
}
