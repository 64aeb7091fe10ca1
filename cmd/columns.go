package cmd

import (
	"fmt"

	"ublk/ctrl"
	"ublk/internal/sysfs"
	"ublk/internal/table"
	"ublk/server"
)

// row is what is known of one device. What is unknown is nil or its type's zero.
type row struct {
	ID     int
	Info   *ctrl.DevInfo  // nil without privileges
	Config *server.Config // nil where the device is none of ours, or another user's
	Disk   *sysfs.Disk    // nil where there is no block device
	Server *sysfs.Process // nil where no server lives, or none is known
	Health sysfs.Health
	Detail *detail // nil but for info
}

// deviceTable is the one table of what is printed of a device.
func deviceTable() table.Table[row] {
	return table.Table[row]{
		Plural:  "ublkdevices",
		Columns: deviceColumns(),
		Default: []string{"ID", "STATE", "TYPE", "SIZE", "QUEUES", "DEPTH", "SERVER", "RECOVERY", "NODE", "BACKING"},
	}
}

func deviceColumns() []table.Column[row] {
	return []table.Column[row]{
		{Name: "ID", Key: "id", Help: "device number", Right: true, Value: func(r row) table.Value { return table.Int(r.ID) }},
		{Name: "NAME", Key: "name", Help: "name given with add --name", Value: ofConfig(func(c *server.Config) table.Value { return orNull(c.Name) })},
		{Name: "STATE", Key: "state", Help: "DEAD, LIVE, QUIESCED or FAIL_IO", Value: row.state},
		{Name: "TYPE", Key: "type", Help: "target that a server of ours serves", Value: ofConfig(func(c *server.Config) table.Value { return orNull(c.Type) })},
		{Name: "SIZE", Key: "size", Help: "capacity", Right: true, Value: row.size},
		{Name: "QUEUES", Key: "queues", Help: "number of queues", Right: true, Value: ofInfo(func(i *ctrl.DevInfo) table.Value { return table.Int(i.Queues) })},
		{Name: "DEPTH", Key: "depth", Help: "tags of a queue", Right: true, Value: ofInfo(func(i *ctrl.DevInfo) table.Value { return table.Int(i.Depth) })},
		{Name: "SERVER", Key: "server_pid", Help: "process that serves the device", Right: true, Value: row.serverPID},
		{Name: "RECOVERY", Key: "recovery", Help: "what happens when the server dies: none, requeue, reissue or fail", Value: ofInfo(func(i *ctrl.DevInfo) table.Value { return table.String(i.Recovery().String()) })},
		{Name: "NODE", Key: "node", Help: "block device", Value: ofDisk(func(d *sysfs.Disk) table.Value { return table.String("/dev/" + d.Name) })},
		{Name: "BACKING", Key: "backing", Help: "file or device behind the disk", Value: ofConfig(func(c *server.Config) table.Value { return orNull(c.Options["file"]) })},
		{Name: "HEALTH", Key: "health", Help: "healthy, stalled, parked, waiting, failing, wedged or dead", Value: func(r row) table.Value { return orNull(string(r.Health)) }},
		{Name: "LOG-SEC", Key: "logical_block_size", Help: "logical block size, bytes", Right: true, Value: row.blockSize},
		{Name: "PHY-SEC", Key: "physical_block_size", Help: "physical block size, bytes", Right: true, Value: ofDisk(func(d *sysfs.Disk) table.Value { return table.Uint(d.Limits.PhysicalBlockSize) })},
		{Name: "MAX-IO", Key: "max_io", Help: "largest request", Right: true, Value: ofInfo(func(i *ctrl.DevInfo) table.Value { return table.Size(uint64(i.MaxIOBytes)) })},
		{Name: "RO", Key: "read_only", Help: "whether the disk is read-only", Value: ofDisk(func(d *sysfs.Disk) table.Value { return table.Bool(d.ReadOnly) })},
		{Name: "DATA", Key: "data", Help: "how data moves: copy, user-copy, zero-copy, auto-reg or none", Value: row.dataMode},
		{Name: "MAJ:MIN", Key: "maj_min", Help: "number of the block device", Value: ofDisk(func(d *sysfs.Disk) table.Value { return table.String(d.Dev.String()) })},
		{Name: "SCHED", Key: "scheduler", Help: "I/O scheduler", Value: ofDisk(func(d *sysfs.Disk) table.Value { return orNull(d.Limits.Scheduler) })},
		{Name: "CHARNODE", Key: "char_node", Help: "character device of the server", Value: func(r row) table.Value { return table.String(ctrl.CharPath(r.ID)) }},
		{Name: "COMMAND", Key: "server_command", Help: "name of the server's process", Value: row.command},
		{Name: "UID", Key: "uid", Help: "user that added the device", Right: true, Value: ofInfo(func(i *ctrl.DevInfo) table.Value { return table.Uint(i.OwnerUID) })},
		{Name: "GID", Key: "gid", Help: "group that added the device", Right: true, Value: ofInfo(func(i *ctrl.DevInfo) table.Value { return table.Uint(i.OwnerGID) })},
		{Name: "FLAGS-RAW", Key: "flags_raw", Help: "flags as a number", Right: true, Value: ofInfo(func(i *ctrl.DevInfo) table.Value {
			return table.Custom(fmt.Sprintf("%#x", uint64(i.Flags)), uint64(i.Flags))
		})},
		{Name: "FLAGS", Key: "flags", Help: "flags by name", Value: ofInfo(func(i *ctrl.DevInfo) table.Value { return table.List(i.Flags.Names()) })},
	}
}

// ofInfo, ofConfig and ofDisk make a column of one source, null without it.
func ofInfo(value func(*ctrl.DevInfo) table.Value) func(row) table.Value {
	return func(r row) table.Value {
		if r.Info == nil {
			return table.Null()
		}
		return value(r.Info)
	}
}

func ofConfig(value func(*server.Config) table.Value) func(row) table.Value {
	return func(r row) table.Value {
		if r.Config == nil {
			return table.Null()
		}
		return value(r.Config)
	}
}

func ofDisk(value func(*sysfs.Disk) table.Value) func(row) table.Value {
	return func(r row) table.Value {
		if r.Disk == nil {
			return table.Null()
		}
		return value(r.Disk)
	}
}

func orNull(s string) table.Value {
	if s == "" {
		return table.Null()
	}
	return table.String(s)
}

// state is the driver's; without privileges only DEAD can be told.
func (r row) state() table.Value {
	switch {
	case r.Info != nil:
		return table.String(r.Info.State.String())
	case r.Disk == nil:
		return table.String(ctrl.Dead.String())
	}
	return table.Null()
}

// size is the disk's, and of a device without one what it was set to.
func (r row) size() table.Value {
	switch {
	case r.Disk != nil:
		return table.Size(r.Disk.Size)
	case r.Detail != nil && r.Detail.Params != nil && r.Detail.Params.Basic != nil:
		return table.Size(r.Detail.Params.Basic.DevSectors * ctrl.SectorSize)
	}
	return table.Null()
}

func (r row) blockSize() table.Value {
	switch {
	case r.Disk != nil:
		return table.Uint(r.Disk.Limits.LogicalBlockSize)
	case r.Detail != nil && r.Detail.Params != nil && r.Detail.Params.Basic != nil:
		return table.Uint(uint64(1) << r.Detail.Params.Basic.LogicalBlockShift)
	}
	return table.Null()
}

func (r row) serverPID() table.Value {
	if r.Server == nil {
		return table.Null()
	}
	return table.Int(r.Server.PID)
}

func (r row) command() table.Value {
	if r.Server == nil {
		return table.Null()
	}
	return table.String(r.Server.Comm)
}

// dataMode is that of the flags, but "none" is known only to the server.
func (r row) dataMode() table.Value {
	switch {
	case r.Info == nil:
		return table.Null()
	case r.Config != nil && r.Config.Data == server.DataNone:
		return table.String(server.DataNone.String())
	}
	return table.String(server.ModeOf(r.Info.Flags).String())
}
