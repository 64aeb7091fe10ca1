package sysfs

import (
	"errors"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

// Disk is the block device of a started ublk device.
type Disk struct {
	ID         int
	Name       string // ublkbN
	Dev        Dev
	Size       uint64 // bytes
	ReadOnly   bool
	DiskSeq    uint64 // new with every START_DEV: tells reincarnations of a name apart
	Limits     Limits
	Partitions []Partition
	Holders    []Holder // of the disk itself; partitions have their own
}

// Limits are the queue limits that the block layer applies. What an older
// kernel does not show is zero. Sizes are in bytes.
type Limits struct {
	LogicalBlockSize, PhysicalBlockSize uint64
	MinIO, OptimalIO                    uint64
	MaxSectors, MaxHWSectors            uint64 // largest request, in bytes: as set, and as the driver allows
	MaxSegments                         uint64
	DMAAlignment                        uint64 // mask, as the kernel has it
	DiscardGranularity, DiscardMax      uint64
	WriteZeroesMax                      uint64
	Chunk                               uint64 // zone size, or what requests must not cross
	Scheduler                           string // the current one
	Requests                            uint64 // nr_requests
	IOTimeout                           uint64 // milliseconds
	WriteCache                          bool   // write back
	FUA, Rotational, IOStats            bool
	Zoned                               string // none, host-aware, host-managed
	Zones                               uint64
}

// Partition is a partition of a disk.
type Partition struct {
	Name        string // ublkbNpM
	Dev         Dev
	Start, Size uint64 // bytes
	Holders     []Holder
}

// Holder is a block device that is built on another one: dm, md, bcache.
type Holder struct {
	Name  string // dm-0, md127
	Label string // device mapper's name for it; "" for others
}

// Disk returns everything about a disk. It is made of some 30 small files: who
// polls uses Stat, Inflight and Queues instead.
func (f *FS) Disk(id int) (Disk, error) {
	name := blockName(id)
	disk := Disk{ID: id, Name: name}
	var err error
	if disk.Dev, err = f.dev("sys/block", name); err != nil {
		return Disk{}, err
	}
	a := attributes{fs: f, folder: "sys/block/" + name}
	disk.Size = a.number("size") * sectorSize
	disk.ReadOnly = a.number("ro") != 0
	disk.DiskSeq = a.number("diskseq")
	disk.Holders = a.holders("")
	disk.Limits = a.limits()
	disk.Partitions = a.partitions(name)
	return disk, a.err
}

// sectorSize is the unit of sizes in sysfs, whatever the logical block size.
const sectorSize = 512

// attributes reads many files of one folder and keeps the first error that is
// not that an attribute is missing.
type attributes struct {
	fs     *FS
	folder string
	err    error
}

func (a *attributes) keep(err error) {
	if a.err == nil && !errors.Is(err, fs.ErrNotExist) {
		a.err = err
	}
}

func (a *attributes) number(name string) uint64 {
	n, err := a.fs.number(a.folder, name)
	a.keep(err)
	return n
}

func (a *attributes) word(name string) string {
	word, err := a.fs.word(a.folder, name)
	a.keep(err)
	return word
}

func (a *attributes) limits() Limits {
	return Limits{
		LogicalBlockSize:   a.number("queue/logical_block_size"),
		PhysicalBlockSize:  a.number("queue/physical_block_size"),
		MinIO:              a.number("queue/minimum_io_size"),
		OptimalIO:          a.number("queue/optimal_io_size"),
		MaxSectors:         a.number("queue/max_sectors_kb") << 10,
		MaxHWSectors:       a.number("queue/max_hw_sectors_kb") << 10,
		MaxSegments:        a.number("queue/max_segments"),
		DMAAlignment:       a.number("queue/dma_alignment"),
		DiscardGranularity: a.number("queue/discard_granularity"),
		DiscardMax:         a.number("queue/discard_max_bytes"),
		WriteZeroesMax:     a.number("queue/write_zeroes_max_bytes"),
		Chunk:              a.number("queue/chunk_sectors") * sectorSize,
		Scheduler:          current(a.word("queue/scheduler")),
		Requests:           a.number("queue/nr_requests"),
		IOTimeout:          a.number("queue/io_timeout"),
		WriteCache:         a.word("queue/write_cache") == "write back",
		FUA:                a.number("queue/fua") != 0,
		Rotational:         a.number("queue/rotational") != 0,
		IOStats:            a.number("queue/iostats") != 0,
		Zoned:              a.word("queue/zoned"),
		Zones:              a.number("queue/nr_zones"),
	}
}

// current returns the choice in brackets of "[none] mq-deadline".
func current(choices string) string {
	_, rest, found := strings.Cut(choices, "[")
	if choice, _, closed := strings.Cut(rest, "]"); found && closed {
		return choice
	}
	return choices
}

func (a *attributes) partitions(disk string) []Partition {
	names, err := a.fs.list(a.folder)
	a.keep(err)
	var partitions []Partition
	for _, name := range names {
		if _, ok := idOf(name, disk+"p"); !ok {
			continue
		}
		dev, err := a.fs.dev(a.folder, name)
		if err != nil { // went away in between
			a.keep(err)
			continue
		}
		partitions = append(partitions, Partition{
			Name:    name,
			Dev:     dev,
			Start:   a.number(name+"/start") * sectorSize,
			Size:    a.number(name+"/size") * sectorSize,
			Holders: a.holders(name),
		})
	}
	slices.SortFunc(partitions, func(a, b Partition) int { return comparePartitions(a.Name, b.Name, disk) })
	return partitions
}

// comparePartitions puts p10 after p9.
func comparePartitions(a, b, disk string) int {
	x, _ := strconv.Atoi(strings.TrimPrefix(a, disk+"p"))
	y, _ := strconv.Atoi(strings.TrimPrefix(b, disk+"p"))
	return x - y
}

// holders lists what is built on the disk (part "") or a partition.
func (a *attributes) holders(part string) []Holder {
	names, err := a.fs.list(a.folder, part, "holders")
	a.keep(err)
	var holders []Holder
	for _, name := range names {
		label, err := a.fs.word("sys/block", name, "dm/name")
		a.keep(err)
		holders = append(holders, Holder{Name: name, Label: label})
	}
	return holders
}
