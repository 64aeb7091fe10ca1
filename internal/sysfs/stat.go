package sysfs

import (
	"fmt"
	"strconv"
	"strings"
)

// Stat is what the block layer counted since the disk was started. All of it
// stays zero while queue/iostats is 0. Milliseconds wrap at 32 bits.
type Stat struct {
	Read, Write, Discard Counts
	FlushOps             uint64
	FlushMillis          uint32
	// InFlight counts requests from acceptance by the block layer to completion:
	// those that are parked or wait in the scheduler are in it, unlike in Inflight.
	InFlight       uint64
	BusyMillis     uint32 // time during which anything was in flight
	WeightedMillis uint32 // time summed over all requests
}

// Counts are the counters of one direction.
type Counts struct {
	Ops, Merges, Sectors uint64 // sectors of 512 bytes
	Millis               uint32 // summed over requests
}

// Done returns how many requests have completed.
func (s Stat) Done() uint64 { return s.Read.Ops + s.Write.Ops + s.Discard.Ops + s.FlushOps }

// Since returns what was counted after an earlier reading of the same disk.
// InFlight is not a counter and stays that of s.
func (s Stat) Since(earlier Stat) Stat {
	s.Read = s.Read.since(earlier.Read)
	s.Write = s.Write.since(earlier.Write)
	s.Discard = s.Discard.since(earlier.Discard)
	s.FlushOps -= earlier.FlushOps
	s.FlushMillis -= earlier.FlushMillis
	s.BusyMillis -= earlier.BusyMillis
	s.WeightedMillis -= earlier.WeightedMillis
	return s
}

func (c Counts) since(earlier Counts) Counts {
	return Counts{c.Ops - earlier.Ops, c.Merges - earlier.Merges, c.Sectors - earlier.Sectors, c.Millis - earlier.Millis}
}

// Inflight counts the requests inside the driver, by direction. The backlog of
// a quiesced device is not among them.
type Inflight struct{ Reads, Writes uint64 }

// Total is reads and writes together.
func (i Inflight) Total() uint64 { return i.Reads + i.Writes }

// Stat reads the counters of one disk.
func (f *FS) Stat(id int) (Stat, error) {
	text, err := f.word("sys/block", blockName(id), "stat")
	if err != nil {
		return Stat{}, err
	}
	return parseStat(text)
}

// Inflight reads how many requests are inside the driver.
func (f *FS) Inflight(id int) (Inflight, error) {
	text, err := f.word("sys/block", blockName(id), "inflight")
	if err != nil {
		return Inflight{}, err
	}
	return parseInflight(text)
}

// DiskStats reads the counters of all ublk disks with one read, by id.
func (f *FS) DiskStats() (map[int]Stat, error) {
	text, err := f.word("proc/diskstats")
	if err != nil {
		return nil, err
	}
	return parseDiskStats(text)
}

// parseStat reads the file stat: 17 columns, and 15 or 11 of old kernels. Later
// kernels may add some.
func parseStat(text string) (Stat, error) {
	columns := strings.Fields(text)
	if len(columns) < 11 {
		return Stat{}, fmt.Errorf("disk statistics have %d columns, not at least 11", len(columns))
	}
	var n [17]uint64
	for i := range min(len(columns), len(n)) {
		var err error
		if n[i], err = strconv.ParseUint(columns[i], 10, 64); err != nil {
			return Stat{}, fmt.Errorf("disk statistics: column %d: %q is not a number", i+1, columns[i])
		}
	}
	return Stat{
		Read:           Counts{n[0], n[1], n[2], uint32(n[3])},
		Write:          Counts{n[4], n[5], n[6], uint32(n[7])},
		InFlight:       n[8],
		BusyMillis:     uint32(n[9]),
		WeightedMillis: uint32(n[10]),
		Discard:        Counts{n[11], n[12], n[13], uint32(n[14])},
		FlushOps:       n[15],
		FlushMillis:    uint32(n[16]),
	}, nil
}

func parseInflight(text string) (Inflight, error) {
	columns := strings.Fields(text)
	if len(columns) != 2 {
		return Inflight{}, fmt.Errorf("inflight has %d columns, not 2", len(columns))
	}
	reads, errReads := strconv.ParseUint(columns[0], 10, 64)
	writes, errWrites := strconv.ParseUint(columns[1], 10, 64)
	if errReads != nil || errWrites != nil {
		return Inflight{}, fmt.Errorf("inflight: %q is not two numbers", text)
	}
	return Inflight{reads, writes}, nil
}

// parseDiskStats reads /proc/diskstats: major, minor, name, then as in stat.
func parseDiskStats(text string) (map[int]Stat, error) {
	stats := map[int]Stat{}
	for line := range strings.Lines(text) {
		columns := strings.Fields(line)
		if len(columns) < 3 {
			continue
		}
		id, ok := idOf(columns[2], "ublkb")
		if !ok {
			continue
		}
		stat, err := parseStat(strings.Join(columns[3:], " "))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", columns[2], err)
		}
		stats[id] = stat
	}
	return stats, nil
}
