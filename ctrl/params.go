package ctrl

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"os"

	"golang.org/x/sys/unix"

	"ublk/internal/ctrldev"
	"ublk/internal/uapi"
)

// SectorSize is the unit of every sector count of the protocol, whatever the
// logical block size.
const SectorSize = 512

// Params are a device's parameters (struct ublk_params). A nil group is absent.
// Devt is filled in by the driver and never sent.
type Params struct {
	Basic     *BasicParams     `json:"basic"`
	Discard   *DiscardParams   `json:"discard"`
	Devt      *DevtParams      `json:"devt"`
	Zoned     *ZonedParams     `json:"zoned"`
	DMAAlign  *DMAAlignParams  `json:"dma_align"`
	Segment   *SegmentParams   `json:"segment"`
	Integrity *IntegrityParams `json:"integrity"`
}

// BasicParams are mandatory (struct ublk_param_basic). Shifts are powers of two
// of bytes.
type BasicParams struct {
	ReadOnly           bool   `json:"read_only"`
	Rotational         bool   `json:"rotational"`
	VolatileCache      bool   `json:"volatile_cache"` // flushes are sent
	FUA                bool   `json:"fua"`            // counts only with VolatileCache
	LogicalBlockShift  uint8  `json:"logical_bs_shift"`
	PhysicalBlockShift uint8  `json:"physical_bs_shift"`
	IOOptShift         uint8  `json:"io_opt_shift"`
	IOMinShift         uint8  `json:"io_min_shift"`
	MaxSectors         uint32 `json:"max_sectors"` // largest request
	ChunkSectors       uint32 `json:"chunk_sectors"`
	DevSectors         uint64 `json:"dev_sectors"` // capacity
	VirtBoundaryMask   uint64 `json:"virt_boundary_mask"`
}

// DiscardParams enable discard and write-zeroes (struct ublk_param_discard).
type DiscardParams struct {
	Alignment             uint32 `json:"discard_alignment"`
	Granularity           uint32 `json:"discard_granularity"`
	MaxSectors            uint32 `json:"max_discard_sectors"`
	MaxWriteZeroesSectors uint32 `json:"max_write_zeroes_sectors"`
	MaxSegments           uint16 `json:"max_discard_segments"`
}

// DevtParams are the device numbers (struct ublk_param_devt). The disk's are 0
// while there is no disk.
type DevtParams struct {
	CharMajor uint32 `json:"char_major"`
	CharMinor uint32 `json:"char_minor"`
	DiskMajor uint32 `json:"disk_major"`
	DiskMinor uint32 `json:"disk_minor"`
}

// ZonedParams are those of a zoned device (struct ublk_param_zoned).
type ZonedParams struct {
	MaxOpenZones     uint32 `json:"max_open_zones"`
	MaxActiveZones   uint32 `json:"max_active_zones"`
	MaxAppendSectors uint32 `json:"max_zone_append_sectors"`
}

// DMAAlignParams is the memory alignment of requests (struct ublk_param_dma_align).
type DMAAlignParams struct {
	Mask uint32 `json:"alignment"` // alignment - 1
}

// SegmentParams are limits of a request's segments (struct ublk_param_segment).
type SegmentParams struct {
	BoundaryMask uint64 `json:"seg_boundary_mask"`
	MaxSize      uint32 `json:"max_segment_size"`
	MaxSegments  uint16 `json:"max_segments"`
}

// IntegrityParams describe protection information (struct ublk_param_integrity).
type IntegrityParams struct {
	Flags        uint32 `json:"flags"`
	MaxSegments  uint16 `json:"max_integrity_segments"`
	IntervalExp  uint8  `json:"interval_exp"`
	MetadataSize uint8  `json:"metadata_size"`
	PIOffset     uint8  `json:"pi_offset"`
	CsumType     uint8  `json:"csum_type"`
	TagSize      uint8  `json:"tag_size"`
}

// Params asks for a device's parameters (GET_PARAMS). The command takes the
// device's mutex and hangs while another one is stuck holding it.
func (c *Client) Params(ctx context.Context, id int) (Params, error) {
	w, err := c.getParams(ctx, id)
	if err != nil {
		return Params{}, err
	}
	return paramsFromWire(&w), nil
}

// SetParams replaces a device's parameters (SET_PARAMS); only before it is
// started (fs.ErrPermission, from EACCES). Devt is left out. Rules of the driver
// are checked here first, because a set that it rejects erases what it had.
func (c *Client) SetParams(ctx context.Context, id int, p Params) error {
	info, err := c.Info(ctx, id)
	if err != nil {
		return err
	}
	if err := p.Validate(&info); err != nil {
		return newError(uapi.CmdSetParams, id, err)
	}
	w := p.toWire()
	return c.setParams(ctx, id, &w)
}

// ChangeParams reads the parameters, lets change edit them and sets the result.
// When the driver rejects that, the old ones are set again.
func (c *Client) ChangeParams(ctx context.Context, id int, change func(*Params) error) (Params, error) {
	old, err := c.getParams(ctx, id)
	if err != nil {
		return Params{}, err
	}
	p := paramsFromWire(&old)
	if err := change(&p); err != nil {
		return Params{}, err
	}
	if err := c.SetParams(ctx, id, p); err != nil {
		if old.Types &^= uapi.ParamDevt; old.Types != 0 && erases(err) {
			// As they were, past our own checks, and even if ctx has ended by now.
			old.Len = uapi.ParamsLen
			err = errors.Join(err, c.setParams(context.WithoutCancel(ctx), id, &old))
		}
		return Params{}, err
	}
	return c.Params(ctx, id)
}

// erases reports whether a failed SET_PARAMS has left the driver without
// parameters. EACCES (started) leaves them; what never reached it does, too.
func erases(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EFAULT) || errors.Is(err, unix.EOPNOTSUPP)
}

func (c *Client) getParams(ctx context.Context, id int) (uapi.Params, error) {
	w := uapi.Params{Len: uapi.ParamsLen}
	cmd := ctrldev.Command{Op: uapi.CmdGetParams, DevID: uint32(id), QueueID: uapi.AllQueues, Buf: uapi.Bytes(&w)}
	err := c.device(ctx, &cmd, id)
	return w, err
}

func (c *Client) setParams(ctx context.Context, id int, w *uapi.Params) error {
	cmd := ctrldev.Command{Op: uapi.CmdSetParams, DevID: uint32(id), QueueID: uapi.AllQueues, Buf: uapi.Bytes(w)}
	return c.device(ctx, &cmd, id)
}

// ParamError is a parameter that breaks a rule of the driver.
type ParamError struct {
	Field, Rule string
}

func (e *ParamError) Error() string { return fmt.Sprintf("parameter %s: %s", e.Field, e.Rule) }

// Validate checks p against the rules of ublk_drv.c:ublk_validate_params, v7.3,
// for a device described by info, and two that the driver leaves to the block
// layer or to nobody: capacity and limits in whole logical blocks.
func (p *Params) Validate(info *DevInfo) error {
	if p.Basic == nil {
		return &ParamError{"basic", "the group is mandatory"}
	}
	checks := []func(*DevInfo) *ParamError{p.checkBasic, p.checkDiscard, p.checkZoned, p.checkMemory, p.checkIntegrity}
	for _, check := range checks {
		if err := check(info); err != nil {
			return err
		}
	}
	return nil
}

func (p *Params) checkBasic(info *DevInfo) *ParamError {
	b, page := p.Basic, os.Getpagesize()
	switch {
	case b.LogicalBlockShift < 9 || int(b.LogicalBlockShift) >= bits.Len(uint(page)):
		return &ParamError{"logical_bs_shift", fmt.Sprintf("logical blocks are 512 to %d bytes", page)}
	case b.PhysicalBlockShift < b.LogicalBlockShift || b.PhysicalBlockShift > 28:
		return &ParamError{"physical_bs_shift", "physical blocks are no smaller than logical ones, and 256 MiB at most"}
	case b.IOMinShift > 28 || b.IOOptShift > 28:
		return &ParamError{"io_min_shift, io_opt_shift", "256 MiB (28) at most"}
	case int(b.MaxSectors) < page/SectorSize:
		return &ParamError{"max_sectors", fmt.Sprintf("at least one page, %d sectors", page/SectorSize)}
	case b.MaxSectors > info.MaxIOBytes/SectorSize:
		return &ParamError{"max_sectors", fmt.Sprintf("at most the device's buffer size, %d sectors", info.MaxIOBytes/SectorSize)}
	case b.DevSectors%(1<<(b.LogicalBlockShift-9)) != 0:
		return &ParamError{"dev_sectors", fmt.Sprintf("the capacity is not a multiple of the logical block of %d bytes", 1<<b.LogicalBlockShift)}
	}
	return nil
}

func (p *Params) checkDiscard(*DevInfo) *ParamError {
	switch d := p.Discard; {
	case d == nil:
	case d.Granularity == 0:
		return &ParamError{"discard_granularity", "must not be 0"}
	case d.MaxSectors != 0 && d.MaxSegments != 1:
		return &ParamError{"max_discard_segments", "must be 1 where discard is on"}
	}
	return nil
}

func (p *Params) checkZoned(info *DevInfo) *ParamError {
	zoned := info.Flags.Has(uapi.FlagZoned)
	chunk := uint64(p.Basic.ChunkSectors)
	switch {
	case p.Zoned == nil && zoned:
		return &ParamError{"zoned", "the device was added as zoned: the group is mandatory"}
	case p.Zoned == nil:
		return nil
	case !zoned:
		return &ParamError{"zoned", "the device was not added with UBLK_F_ZONED"}
	case chunk == 0 || chunk&(chunk-1) != 0:
		return &ParamError{"chunk_sectors", "the zone size is a power of two"}
	case p.Zoned.MaxAppendSectors == 0:
		return &ParamError{"max_zone_append_sectors", "must not be 0"}
	case uint64(p.Zoned.MaxOpenZones) > p.Basic.DevSectors/chunk || uint64(p.Zoned.MaxActiveZones) > p.Basic.DevSectors/chunk:
		return &ParamError{"max_open_zones, max_active_zones", "no more than there are zones"}
	}
	return nil
}

func (p *Params) checkMemory(*DevInfo) *ParamError {
	if d := p.DMAAlign; d != nil && (int(d.Mask) >= os.Getpagesize() || d.Mask&(d.Mask+1) != 0) {
		return &ParamError{"alignment", "a power of two minus one, below the page size"}
	}
	switch s := p.Segment; {
	case s == nil:
	case s.BoundaryMask&(s.BoundaryMask+1) != 0 || s.BoundaryMask < 4095 || s.BoundaryMask+1 == 0:
		return &ParamError{"seg_boundary_mask", "a power of two minus one, at least 4095, below 2^64-1"}
	case s.MaxSize < 4096:
		return &ParamError{"max_segment_size", "at least 4096"}
	}
	return nil
}

func (p *Params) checkIntegrity(info *DevInfo) *ParamError {
	switch i := p.Integrity; {
	case i == nil:
	case !info.Flags.Has(uapi.FlagIntegrity):
		return &ParamError{"integrity", "the device was not added with UBLK_F_INTEGRITY"}
	case i.MetadataSize == 0:
		return &ParamError{"metadata_size", "must not be 0"}
	case i.IntervalExp < 9 || i.IntervalExp > p.Basic.LogicalBlockShift:
		return &ParamError{"interval_exp", "from 9 to the logical block size"}
	}
	return nil
}
