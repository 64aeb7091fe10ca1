package sysfs

import "slices"

// Health is one word for how a device is doing.
type Health string

// The words, from the best to the worst that still has a device behind it.
const (
	Unknown Health = ""        // the state cannot be read
	Healthy Health = "healthy" // I/O moves, or there is none
	Stalled Health = "stalled" // the server has requests and answers none
	Parked  Health = "parked"  // LIVE, but the driver keeps requests back from the server
	Waiting Health = "waiting" // no server; I/O waits for recovery
	Failing Health = "failing" // no server; I/O fails at once
	Wedged  Health = "wedged"  // is being stopped, or hangs there
	Dead    Health = "dead"    // no block device
)

// The device states of the driver, and one for not knowing.
const (
	StateUnknown  = -1
	StateDead     = 0
	StateLive     = 1
	StateQuiesced = 2
	StateFailIO   = 3
)

// Sample is what was seen of a device at one moment. What could not be seen is
// left out, and is never taken for a bad sign.
type Sample struct {
	State   int // one of the constants
	HasDisk bool
	DiskSeq uint64 // samples of different disks are not compared
	// Server is the state of the server's main thread as in Process; 'X' if the
	// process that the driver names is gone, 0 if unknown.
	Server     byte
	Stat       Stat
	Inflight   Inflight
	Requeued   bool     // the requeue list is not empty
	QueueFlags []string // of the request queue, from debugfs
	NoQueues   bool     // the disk is there and has no mq folder
}

// Derive judges a device. Only a comparison can tell a request that takes its
// time from one that hangs: prev is a sample from some seconds before cur, long
// enough for a slow backend to answer something. A zero prev judges by cur alone.
func Derive(prev, cur Sample) Health {
	switch cur.State {
	case StateDead:
		return Dead
	case StateQuiesced:
		return Waiting
	case StateFailIO:
		return Failing
	case StateLive:
		return deriveLive(prev, cur)
	}
	return Unknown
}

func deriveLive(prev, cur Sample) Health {
	stuck := prev.State == StateLive && prev.DiskSeq == cur.DiskSeq && prev.Stat.Done() == cur.Stat.Done()
	switch {
	case !cur.HasDisk, cur.NoQueues, slices.Contains(cur.QueueFlags, "DYING"), slices.Contains(cur.QueueFlags, "QUIESCED"):
		return Wedged
	case stuck && keptBack(prev) && keptBack(cur):
		return Parked
	case slices.Contains([]byte{'T', 't', 'Z', 'X'}, cur.Server):
		return Stalled
	case stuck && cur.Server == 'D' && prev.Server == 'D':
		return Stalled
	case stuck && cur.Inflight.Total() > 0 && prev.Inflight.Total() > 0:
		return Stalled
	}
	return Healthy
}

// keptBack says whether requests were accepted and none of them is in the driver.
// The requeue list shows them on 7.3; on 6.12 it can be empty all the same.
func keptBack(s Sample) bool {
	return s.Inflight.Total() == 0 && (s.Stat.InFlight > 0 || s.Requeued)
}

// Busy says whether a later sample is needed to judge this one: a LIVE device
// with requests under way.
func (s Sample) Busy() bool {
	return s.State == StateLive && (s.Stat.InFlight > 0 || s.Inflight.Total() > 0 || s.Requeued)
}
