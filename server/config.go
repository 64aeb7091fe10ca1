package server

import (
	"fmt"

	"ublk/ctrl"
	"ublk/internal/uapi"
)

// Defaults and limits of a device.
const (
	DefaultQueues = 1
	DefaultDepth  = 128
	DefaultMaxIO  = 512 << 10
	MaxMaxIO      = uapi.UserCopyMaxBytes
)

// Buffers is the kind of memory behind the tags' I/O buffers.
type Buffers string

// The kinds of buffers.
const (
	BuffersPlain Buffers = "plain" // touched pages only
	BuffersFixed Buffers = "fixed" // registered in the ring, pinned
	BuffersHuge  Buffers = "huge"  // transparent huge pages
)

// Config is everything that makes a device: what `ublk add` was asked for, and
// what a recovery starts from. The zero value of a field is its default. It is
// stored as JSON; fields are only ever added.
type Config struct {
	Type    string            `json:"type"`              // target, e.g. "null"
	Options map[string]string `json:"options,omitempty"` // of the target
	Name    string            `json:"name,omitempty"`

	Queues     int    `json:"queues,omitempty"` // asked for; the driver may grant fewer
	Depth      int    `json:"depth,omitempty"`
	MaxIOBytes uint32 `json:"max_io,omitempty"`

	Recovery        ctrl.Recovery `json:"recovery"`
	Data            DataMode      `json:"data"`
	Buffers         Buffers       `json:"buffers,omitempty"`
	Batch           bool          `json:"batch,omitempty"`
	NeedGetData     bool          `json:"need_get_data,omitempty"`
	NoStats         bool          `json:"no_stats,omitempty"`
	Unprivileged    bool          `json:"unprivileged,omitempty"`
	ReadOnly        bool          `json:"read_only,omitempty"`
	NoPartitionScan bool          `json:"no_partition_scan,omitempty"`
	LogicalBlock    int           `json:"logical_block_size,omitempty"`  // bytes; 0: the target's
	PhysicalBlock   int           `json:"physical_block_size,omitempty"` // bytes; 0: the target's

	CPUs     []int `json:"cpus,omitempty"`     // of every queue thread
	Affinity bool  `json:"affinity,omitempty"` // each queue on the CPUs of its GET_QUEUE_AFFINITY
}

// withDefaults fills in what was left open.
func (c Config) withDefaults() Config {
	if c.Queues == 0 {
		c.Queues = DefaultQueues
	}
	if c.Depth == 0 {
		c.Depth = DefaultDepth
	}
	if c.MaxIOBytes == 0 {
		c.MaxIOBytes = DefaultMaxIO
	}
	if c.Buffers == "" {
		c.Buffers = BuffersPlain
	}
	return c
}

// BufferBytes is the most that the I/O buffers of a server of this configuration
// take in memory, on the device that info describes. All but fixed ones take it
// page by page, as requests use them.
func (c Config) BufferBytes(info ctrl.DevInfo) uint64 {
	if c.Data == DataNone || !ModeOf(info.Flags).buffered() {
		return 0
	}
	return uint64(info.Queues) * uint64(info.Depth) * uint64(info.MaxIOBytes)
}

// Plan is a device about to be made: what ADD_DEV and SET_PARAMS will be sent.
type Plan struct {
	Config Config // with defaults filled in
	Mode   DataMode
	Add    ctrl.AddRequest // ID and ServerFlags are the caller's
	Params ctrl.Params     // MaxSectors as if ADD_DEV granted MaxIOBytes
}

// Plan checks the configuration against the target and the kernel's features.
// Nothing is sent: a feature that the kernel lacks is an *ctrl.UnsupportedError
// here, before there is a device.
func (c Config) Plan(t Target, have ctrl.Features) (Plan, error) {
	c = c.withDefaults()
	if err := c.check(); err != nil {
		return Plan{}, err
	}
	if v, ok := t.(Volatile); ok && c.Recovery != ctrl.RecoveryNone {
		return Plan{}, fmt.Errorf("recovery=%s: %s", c.Recovery, v.Volatile())
	}
	mode, err := c.Data.pick(t, have, c.Unprivileged)
	if err != nil {
		return Plan{}, err
	}
	if c.NeedGetData && mode != DataCopy {
		return Plan{}, fmt.Errorf("need-get-data is a step of data mode copy, not of %s", mode)
	}
	flags, err := c.flags(mode, have)
	if err != nil {
		return Plan{}, err
	}
	params, err := c.params(t)
	if err != nil {
		return Plan{}, err
	}
	if mode == DataNone || c.NoPartitionScan {
		// Content is undefined, or not to be looked at: where the kernel can be
		// told so it is; unread otherwise only if it was not asked for by name.
		if err := have.Require(uapi.FlagNoAutoPartScan); err != nil && c.NoPartitionScan {
			return Plan{}, err
		}
		flags |= uapi.FlagNoAutoPartScan & uint64(have)
	}
	return Plan{
		Config: c, Mode: mode, Params: params,
		Add: ctrl.AddRequest{ID: -1, Queues: c.Queues, Depth: c.Depth, MaxIOBytes: c.MaxIOBytes, Flags: flags},
	}, nil
}

func (c *Config) check() error {
	switch {
	case c.Queues < 1 || c.Queues > uapi.MaxQueues:
		return fmt.Errorf("%d queues: from 1 to %d", c.Queues, uapi.MaxQueues)
	case c.Depth < 1 || c.Depth > uapi.MaxQueueDepth:
		return fmt.Errorf("depth %d: from 1 to %d", c.Depth, uapi.MaxQueueDepth)
	case c.MaxIOBytes < minMaxIO() || c.MaxIOBytes > MaxMaxIO:
		return fmt.Errorf("largest request %d bytes: from %d to %d", c.MaxIOBytes, minMaxIO(), MaxMaxIO)
	case c.Unprivileged && c.Recovery != ctrl.RecoveryNone:
		return fmt.Errorf("an unprivileged device cannot be recovered: the driver drops recovery=%s", c.Recovery)
	case len(c.CPUs) > 0 && c.Affinity:
		return fmt.Errorf("a CPU list and the queues' own CPUs exclude each other")
	}
	switch c.Buffers {
	case BuffersPlain, BuffersFixed, BuffersHuge:
		return nil
	}
	return fmt.Errorf("buffers %q: one of plain, fixed, huge", c.Buffers)
}

// flags are those of ADD_DEV. QUIESCE comes with recovery where it exists.
func (c *Config) flags(mode DataMode, have ctrl.Features) (uint64, error) {
	flags := mode.flags() | c.Recovery.Flags()
	if c.NeedGetData {
		flags |= uapi.FlagNeedGetData
	}
	if c.Batch {
		flags |= uapi.FlagBatchIO
	}
	if c.Unprivileged {
		flags |= uapi.FlagUnprivilegedDev
	}
	if err := have.Require(flags); err != nil {
		return 0, err
	}
	if c.Recovery != ctrl.RecoveryNone {
		flags |= uapi.FlagQuiesce & uint64(have)
	}
	return flags, nil
}

// params are the target's with what the configuration overrides.
func (c *Config) params(t Target) (ctrl.Params, error) {
	p := t.Params()
	if p.Basic == nil || p.Basic.DevSectors == 0 {
		return p, fmt.Errorf("target %s has no capacity", c.Type)
	}
	b := *p.Basic
	p.Basic = &b
	b.MaxSectors = c.MaxIOBytes / ctrl.SectorSize
	b.ReadOnly = b.ReadOnly || c.ReadOnly
	for _, s := range []struct {
		name  string
		bytes int
		shift *uint8
		floor uint8
	}{{"logical", c.LogicalBlock, &b.LogicalBlockShift, b.LogicalBlockShift}, {"physical", c.PhysicalBlock, &b.PhysicalBlockShift, 9}} {
		if s.bytes == 0 {
			continue
		}
		shift, ok := shiftOf(s.bytes)
		if !ok || shift < 9 {
			return p, fmt.Errorf("%s block size %d: a power of two of at least 512", s.name, s.bytes)
		}
		if shift < s.floor {
			return p, fmt.Errorf("%s block size %d: the target's blocks are %d bytes", s.name, s.bytes, 1<<s.floor)
		}
		*s.shift = shift
	}
	b.PhysicalBlockShift = max(b.PhysicalBlockShift, b.LogicalBlockShift)
	b.IOMinShift = max(b.IOMinShift, b.PhysicalBlockShift)
	b.DevSectors = b.DevSectors >> (b.LogicalBlockShift - 9) << (b.LogicalBlockShift - 9)
	return p, p.Validate(&ctrl.DevInfo{MaxIOBytes: c.MaxIOBytes})
}
