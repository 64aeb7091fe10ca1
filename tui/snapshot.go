package tui

import (
	"context"
	"time"
)

// Sampler looks at the devices. Its methods are called one at a time, off the
// screen's goroutine, and return in bounded time: what a device does not
// answer is marked in the result.
type Sampler interface {
	// Sample looks at all devices. Rates are those since the call before.
	Sample(context.Context) Snapshot
	// Detail looks closely at one device. Of queue it also tells what every tag
	// carries where that is expensive to find out; -1 is no queue.
	Detail(ctx context.Context, id, queue int) Detail
}

// Snapshot is what was seen of all devices at one time.
type Snapshot struct {
	Time    time.Time
	Devices []Device // ascending by ID
	Notes   []string // what cannot be seen and why, a sentence each
}

// Unknown stands for a number, rate or time that is not known.
const Unknown = -1

// Device is what was seen of one device. Texts that are not known are empty.
type Device struct {
	ID       int
	Name     string
	Type     string // target of a server of ours
	State    string // DEAD, LIVE, QUIESCED, FAIL_IO
	Health   string // healthy, stalled, parked, waiting, failing, wedged, dead
	Recovery string // none, requeue, reissue, fail
	Queues   int    // or Unknown
	Depth    int    // tags of a queue, or Unknown
	InFlight int    // requests accepted and not completed, or Unknown
	Rates    *Rates // nil before the second sample, and without a disk
	Latency  Latency
	Errors   int64 // since the server started, or Unknown
	Server   Server

	// For is how long the device has been in its state if that is no good one, or
	// without progress; AtLeast says that it was so already when first seen.
	For     time.Duration
	AtLeast bool
	// Handler is who holds the lock of a device without a server, as with
	// "4711 ublk watch"; empty for nobody.
	Handler string
	// Silent is how long the device has not answered; the rest is older by that.
	Silent time.Duration
}

// Rates are what a disk or a queue did in an interval, a second.
type Rates struct {
	Reads, Writes, Others float64 // requests
	ReadBytes, WriteBytes float64
	ReadTime, WriteTime   time.Duration // mean from acceptance to completion; Unknown without requests
	InFlight, Busy        float64       // mean number in flight; part of the time with any, 0..1
	Span                  time.Duration // the interval
}

// IOPS are requests of all kinds.
func (r *Rates) IOPS() float64 { return r.Reads + r.Writes + r.Others }

// Latency holds percentiles of what the server took for reads and writes in the
// interval; each is Unknown where the server publishes none or had none, and
// where it answered requests in the batch that they came in, which it does not
// measure.
type Latency struct{ P50, P90, P99, P999 time.Duration }

// NoLatency is the latency of a server that publishes none.
func NoLatency() Latency { return Latency{Unknown, Unknown, Unknown, Unknown} }

// Server is the process that serves a device, or did.
type Server struct {
	PID     int // 0: none known
	Command string
	Alive   bool
	Own     bool    // of this program
	State   byte    // as in /proc/PID/stat, 0 if not known
	CPU     float64 // CPUs used in the interval, or Unknown
}

// Detail is a close look at one device.
type Detail struct {
	ID      int
	Queues  []Queue // ascending by Index
	Missing string  // why tags or queues are not known, "" if they are
}

// Queue is what was seen of one queue.
type Queue struct {
	Index    int
	Depth    int
	InFlight int     // or Unknown
	TID      int     // of its thread, 0 if not known
	CPU      float64 // CPUs used by the thread, or Unknown
	LastCPU  int     // where it ran last, or Unknown
	CPUs     string  // whose requests come here, as 0-3,8
	Rates    *Rates
	Latency  Latency
	Errors   int64
	Oldest   time.Duration // age of the oldest request, or Unknown
	Tags     []Tag         // those that are not free, ascending
}

// Tag is a request slot that is not free.
type Tag struct {
	Tag    int
	Op     string // READ, WRITE …, "" if not known
	Sector uint64 // 512 bytes
	Bytes  uint32 // 0: sector and bytes are not known, or there are none
	Age    time.Duration
	Holder Holder
}

// Holder is who has a request.
type Holder string

// The holders. What a foreign server has cannot be told from what waits for its thread.
const (
	Allocated Holder = "kernel"        // on its way to the driver or back
	Delivered Holder = "server"        // a server of ours has it
	InDriver  Holder = "driver/server" // a foreign server has it, or its thread is to fetch it
	Parked    Holder = "parked"        // waits for a server
	Lost      Holder = "dead server"   // a server of ours had it when it died
)
