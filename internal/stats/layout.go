// Package stats is the statistics page that a server publishes: per queue the
// counters of every kind of operation, latency histograms, and for every tag
// what it carries and since when.
//
// The page is a file that the server maps and writes in place; it is never
// truncated and survives the server's death. Readers use pread, never a mapping:
// a file that shrinks under a mapping kills the reader. Every queue has a block
// of its own, on cache lines of its own, written by that queue's thread alone
// under a sequence lock: odd while a batch is being recorded. A reader that sees
// the same even number before and after has a consistent block; a server that
// was killed inside a batch leaves it odd for ever, which Sample.Torn tells.
package stats

import (
	"structs"
	"unsafe"
)

// Kind groups the operations of the driver for counting.
type Kind uint8

// The kinds of operation, in the order of the page.
const (
	Read Kind = iota
	Write
	Flush
	Discard
	WriteZeroes
	Other
	Kinds
)

var kindNames = [Kinds]string{"read", "write", "flush", "discard", "write-zeroes", "other"}

func (k Kind) String() string {
	if k < Kinds {
		return kindNames[k]
	}
	return "unknown"
}

// KindOf maps the low byte of a descriptor's op_flags (UBLK_IO_OP_…).
func KindOf(op uint8) Kind {
	if op < uint8(len(kindOfOp)) {
		return kindOfOp[op]
	}
	return Other
}

var kindOfOp = [...]Kind{
	Read, Write, Flush, Discard, Other, WriteZeroes, Other, Other, Other, Other, Other, Other, Other,
	Write, // zone append
}

const (
	magic     = 0x7374617473626c75 // "ublstats"
	version   = 1
	cacheLine = 64
	pageSize  = 4096 // of the file's layout, whatever the system's page size
	tagBytes  = 32
	maxQueues = 4096
	maxDepth  = 4096
)

// header is the first page.
type header struct {
	_         structs.HostLayout
	Magic     uint64
	Version   uint32
	PID       uint32
	Queues    uint32
	Depth     uint32
	HeadBytes uint32
	QBytes    uint32 // one queue's block with its tags, a multiple of pageSize
	Buckets   uint32
	Kinds     uint32
	Started   int64 // CLOCK_MONOTONIC, ns
	DevID     uint32
	_         uint32
	_         uint64
}

// counters are those of one kind on one queue.
type counters struct {
	_      structs.HostLayout
	IOs    uint64
	Bytes  uint64
	Errors uint64
	TimeNS uint64 // sum of latencies
}

// block is one queue's part, followed by its tags.
type block struct {
	_     structs.HostLayout
	Seq   uint64
	TID   uint32
	_     uint32
	Now   int64 // clock of the last batch, CLOCK_MONOTONIC ns
	_     [cacheLine - 24]byte
	Count [Kinds]counters
	Hist  [histograms][Buckets]uint64
}

// tagSlot is what one tag carries. Since 0 means that it carries nothing.
type tagSlot struct {
	_      structs.HostLayout
	Since  int64 // CLOCK_MONOTONIC, ns
	Sector uint64
	Bytes  uint32
	Op     uint8
	_      [11]byte
}

var (
	_ [64]byte       = [unsafe.Sizeof(header{})]byte{}
	_ [tagBytes]byte = [unsafe.Sizeof(tagSlot{})]byte{}
	_ [0]byte        = [unsafe.Offsetof(block{}.Count) - cacheLine]byte{}
)

func queueBytes(depth int) int {
	n := int(unsafe.Sizeof(block{})) + depth*tagBytes
	return (n + pageSize - 1) &^ (pageSize - 1)
}
