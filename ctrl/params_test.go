package ctrl_test

import (
	"context"
	"errors"
	"io/fs"
	"reflect"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/internal/ctrldev"
	"ublk/internal/ctrldev/fake"
	"ublk/internal/uapi"
)

func TestParamsRoundTrip(t *testing.T) {
	c, _ := newClient(t, fake.Options{})
	full := basicParams()
	full.Basic.ReadOnly, full.Basic.VolatileCache = true, true
	full.Discard = &ctrl.DiscardParams{Alignment: 1, Granularity: 4096, MaxSectors: 8, MaxWriteZeroesSectors: 9, MaxSegments: 1}
	full.DMAAlign = &ctrl.DMAAlignParams{Mask: 511}
	full.Segment = &ctrl.SegmentParams{BoundaryMask: 4095, MaxSize: 1 << 16, MaxSegments: 7}
	full.Integrity = &ctrl.IntegrityParams{Flags: 1, MaxSegments: 3, IntervalExp: 9, MetadataSize: 16, PIOffset: 8, CsumType: 1, TagSize: 2}
	added(t, c, uapi.FlagIntegrity|uapi.FlagUserCopy)
	must(t, c.SetParams(t.Context(), 0, full))
	got, err := c.Params(t.Context(), 0)
	must(t, err)
	if got.Devt == nil || got.Devt.DiskMajor != 0 {
		t.Errorf("device numbers %+v", got.Devt)
	}
	got.Devt = nil
	if !reflect.DeepEqual(got, full) {
		t.Errorf("%+v, want %+v", got, full)
	}
}

func TestParamsOfZoned(t *testing.T) {
	c, _ := newClient(t, fake.Options{})
	_, err := c.Add(t.Context(), ctrl.AddRequest{ID: -1, Queues: 1, Depth: 1, MaxIOBytes: 1 << 20, Flags: uapi.FlagZoned | uapi.FlagUserCopy})
	must(t, err)
	p := basicParams()
	p.Basic.ChunkSectors = 256
	p.Zoned = &ctrl.ZonedParams{MaxOpenZones: 8, MaxActiveZones: 8, MaxAppendSectors: 1}
	must(t, c.SetParams(t.Context(), 0, p))
	got, err := c.Params(t.Context(), 0)
	must(t, err)
	if !reflect.DeepEqual(got.Zoned, p.Zoned) {
		t.Errorf("%+v", got.Zoned)
	}
}

// FuzzParamsWire: whatever passes Validate the driver takes, and it comes back
// as it went in.
func FuzzParamsWire(f *testing.F) {
	f.Add(uint8(9), uint8(12), uint32(256), uint64(2048), uint64(4095), uint32(4096), uint32(511), uint32(4096), uint16(1), uint8(15))
	f.Add(uint8(12), uint8(12), uint32(8), uint64(1001), ^uint64(0), uint32(4095), uint32(4096), uint32(0), uint16(2), uint8(7))
	f.Add(uint8(200), uint8(200), uint32(1<<31), ^uint64(0), uint64(0), ^uint32(0), ^uint32(0), uint32(1), uint16(0), uint8(0))
	f.Fuzz(func(t *testing.T, logical, physical uint8, maxSectors uint32, sectors, boundary uint64, segment, mask, granularity uint32, segments uint16, groups uint8) {
		c, _ := newClient(t, fake.Options{})
		info, err := c.Add(t.Context(), ctrl.AddRequest{ID: 0, Queues: 1, Depth: 1, MaxIOBytes: 1 << 20})
		must(t, err)
		p := ctrl.Params{Basic: &ctrl.BasicParams{LogicalBlockShift: logical, PhysicalBlockShift: physical, MaxSectors: maxSectors,
			DevSectors: sectors, VirtBoundaryMask: boundary, ReadOnly: groups&16 != 0, Rotational: groups&32 != 0,
			VolatileCache: groups&64 != 0, FUA: groups&128 != 0}}
		if groups&1 != 0 {
			p.Discard = &ctrl.DiscardParams{Granularity: granularity, MaxSectors: maxSectors, MaxSegments: segments}
		}
		if groups&2 != 0 {
			p.DMAAlign = &ctrl.DMAAlignParams{Mask: mask}
		}
		if groups&4 != 0 {
			p.Segment = &ctrl.SegmentParams{BoundaryMask: boundary, MaxSize: segment, MaxSegments: segments}
		}
		valid := p.Validate(&info) == nil
		switch err := c.SetParams(t.Context(), 0, p); {
		case valid && err != nil:
			t.Fatalf("the driver refuses %+v: %v", p, err)
		case !valid && err == nil:
			t.Fatalf("set although invalid: %+v", p)
		case err != nil:
			return
		}
		got, err := c.Params(t.Context(), 0)
		must(t, err)
		got.Devt = nil
		if !reflect.DeepEqual(got, p) {
			t.Fatalf("%+v, want %+v", got, p)
		}
	})
}

func TestValidate(t *testing.T) {
	plain := ctrl.DevInfo{MaxIOBytes: 1 << 19}
	zonedDev := ctrl.DevInfo{MaxIOBytes: 1 << 19, Flags: ctrl.Features(uapi.FlagZoned)}
	integral := ctrl.DevInfo{MaxIOBytes: 1 << 19, Flags: ctrl.Features(uapi.FlagIntegrity)}
	asZoned := func(p *ctrl.Params) {
		p.Basic.ChunkSectors = 256
		p.Zoned = &ctrl.ZonedParams{MaxOpenZones: 8, MaxActiveZones: 8, MaxAppendSectors: 1}
	}
	for _, tt := range []struct {
		name  string
		info  ctrl.DevInfo
		edit  func(*ctrl.Params)
		field string // "": valid
	}{
		{"plain", plain, func(*ctrl.Params) {}, ""},
		{"no basic", plain, func(p *ctrl.Params) { p.Basic = nil }, "basic"},
		{"logical 8", plain, func(p *ctrl.Params) { p.Basic.LogicalBlockShift = 8 }, "logical_bs_shift"},
		{"logical 13", plain, func(p *ctrl.Params) { p.Basic.LogicalBlockShift = 13 }, "logical_bs_shift"},
		{"logical 64", plain, func(p *ctrl.Params) { p.Basic.LogicalBlockShift, p.Basic.PhysicalBlockShift = 64, 64 }, "logical_bs_shift"},
		{"logical 255", plain, func(p *ctrl.Params) { p.Basic.LogicalBlockShift = 255 }, "logical_bs_shift"},
		{"physical too small", plain, func(p *ctrl.Params) { p.Basic.PhysicalBlockShift = 8 }, "physical_bs_shift"},
		{"physical 29", plain, func(p *ctrl.Params) { p.Basic.PhysicalBlockShift = 29 }, "physical_bs_shift"},
		{"io_min", plain, func(p *ctrl.Params) { p.Basic.IOMinShift = 29 }, "io_min_shift, io_opt_shift"},
		{"max_sectors 7", plain, func(p *ctrl.Params) { p.Basic.MaxSectors = 7 }, "max_sectors"},
		{"max_sectors 1025", plain, func(p *ctrl.Params) { p.Basic.MaxSectors = 1025 }, "max_sectors"},
		{"max_sectors 2^31", plain, func(p *ctrl.Params) { p.Basic.MaxSectors = 1 << 31 }, "max_sectors"},
		{"half a block", plain, func(p *ctrl.Params) { p.Basic.LogicalBlockShift, p.Basic.DevSectors = 12, 9 }, "dev_sectors"},
		{"granularity 0", plain, func(p *ctrl.Params) { p.Discard = &ctrl.DiscardParams{} }, "discard_granularity"},
		{"2 segments", plain, func(p *ctrl.Params) { p.Discard = &ctrl.DiscardParams{Granularity: 1, MaxSectors: 1, MaxSegments: 2} }, "max_discard_segments"},
		{"write zeroes only", plain, func(p *ctrl.Params) { p.Discard = &ctrl.DiscardParams{Granularity: 1, MaxWriteZeroesSectors: 1} }, ""},
		{"dma 4096", plain, func(p *ctrl.Params) { p.DMAAlign = &ctrl.DMAAlignParams{Mask: 4096} }, "alignment"},
		{"dma 4095", plain, func(p *ctrl.Params) { p.DMAAlign = &ctrl.DMAAlignParams{Mask: 4095} }, ""},
		{"segment mask", plain, func(p *ctrl.Params) { p.Segment = &ctrl.SegmentParams{BoundaryMask: 5000, MaxSize: 4096} }, "seg_boundary_mask"},
		{"segment mask of all ones", plain, func(p *ctrl.Params) { p.Segment = &ctrl.SegmentParams{BoundaryMask: ^uint64(0), MaxSize: 4096} }, "seg_boundary_mask"},
		{"segment size", plain, func(p *ctrl.Params) { p.Segment = &ctrl.SegmentParams{BoundaryMask: 4095, MaxSize: 4095} }, "max_segment_size"},
		{"zoned on a plain device", plain, asZoned, "zoned"},
		{"zoned device without", zonedDev, func(*ctrl.Params) {}, "zoned"},
		{"zoned", zonedDev, asZoned, ""},
		{"zone size", zonedDev, func(p *ctrl.Params) { asZoned(p); p.Basic.ChunkSectors = 255 }, "chunk_sectors"},
		{"no append", zonedDev, func(p *ctrl.Params) { asZoned(p); p.Zoned.MaxAppendSectors = 0 }, "max_zone_append_sectors"},
		{"too many zones", zonedDev, func(p *ctrl.Params) { asZoned(p); p.Zoned.MaxOpenZones = 9 }, "max_open_zones, max_active_zones"},
		{"integrity on a plain device", plain, func(p *ctrl.Params) { p.Integrity = &ctrl.IntegrityParams{MetadataSize: 8, IntervalExp: 9} }, "integrity"},
		{"integrity", integral, func(p *ctrl.Params) { p.Integrity = &ctrl.IntegrityParams{MetadataSize: 8, IntervalExp: 9} }, ""},
		{"no metadata", integral, func(p *ctrl.Params) { p.Integrity = &ctrl.IntegrityParams{IntervalExp: 9} }, "metadata_size"},
		{"interval", integral, func(p *ctrl.Params) { p.Integrity = &ctrl.IntegrityParams{MetadataSize: 8, IntervalExp: 10} }, "interval_exp"},
	} {
		p := basicParams()
		tt.edit(&p)
		err := p.Validate(&tt.info)
		var pe *ctrl.ParamError
		switch {
		case tt.field == "" && err != nil:
			t.Errorf("%s: %v", tt.name, err)
		case tt.field != "" && (!errors.As(err, &pe) || pe.Field != tt.field):
			t.Errorf("%s: %v, want a complaint about %s", tt.name, err, tt.field)
		}
	}
}

func TestSetParamsIsCheckedHere(t *testing.T) {
	c, drv := newClient(t, fake.Options{})
	added(t, c, 0)
	drv.Forget()
	p := basicParams()
	p.Basic.MaxSectors = 1
	err := c.SetParams(t.Context(), 0, p)
	var pe *ctrl.ParamError
	if !errors.As(err, &pe) || pe.Field != "max_sectors" {
		t.Errorf("%v", err)
	}
	for _, h := range drv.History() {
		if h.Op == uapi.CmdSetParams {
			t.Error("bad parameters reached the driver, which erases the old ones")
		}
	}
}

// brokenTuple passes Validate, which leaves the checksum's size to the driver.
func brokenTuple(p *ctrl.Params) error {
	p.Integrity = &ctrl.IntegrityParams{MetadataSize: 8, IntervalExp: 9, PIOffset: 8, CsumType: 1}
	return nil
}

func TestChangeParams(t *testing.T) {
	c, drv := newClient(t, fake.Options{})
	added(t, c, uapi.FlagIntegrity|uapi.FlagUserCopy)
	ctx := t.Context()
	got, err := c.ChangeParams(ctx, 0, func(p *ctrl.Params) error { p.Basic.DevSectors = 4096; return nil })
	if err != nil || got.Basic.DevSectors != 4096 {
		t.Fatalf("%+v, %v", got.Basic, err)
	}
	before, _ := drv.Stored(0)
	stop := errors.New("changed my mind")
	if _, err := c.ChangeParams(ctx, 0, func(p *ctrl.Params) error { p.Basic.DevSectors = 1; return stop }); err != stop {
		t.Errorf("%v", err)
	}
	if _, err := c.ChangeParams(ctx, 0, brokenTuple); !errors.Is(err, unix.EINVAL) {
		t.Errorf("%v", err)
	}
	if after, _ := drv.Stored(0); !sameParams(after, before) {
		t.Errorf("%+v after a refused change, was %+v", after, before)
	}
}

// sameParams compares without what GET_PARAMS adds.
func sameParams(a, b uapi.Params) bool {
	a.Types &^= uapi.ParamDevt
	b.Types &^= uapi.ParamDevt
	a.Devt, b.Devt = uapi.ParamsDevt{}, uapi.ParamsDevt{}
	return a == b
}

// What a foreign server has set may break our own, stricter rules: it is
// restored all the same.
func TestChangeParamsRestoresForeign(t *testing.T) {
	c, drv := newClient(t, fake.Options{})
	added(t, c, uapi.FlagIntegrity|uapi.FlagUserCopy)
	foreign := basic()
	foreign.Basic.LogicalBSShift, foreign.Basic.DevSectors = 12, 1001
	foreign.Basic.Attrs = 1 << 9
	e := env{drv: drv}
	must(t, set(func(p *uapi.Params) { *p = foreign })(&e))
	_, err := c.ChangeParams(t.Context(), 0, func(p *ctrl.Params) error {
		p.Basic.DevSectors = 1000
		return brokenTuple(p)
	})
	if !errors.Is(err, unix.EINVAL) {
		t.Errorf("%v", err)
	}
	if after, _ := drv.Stored(0); !sameParams(after, foreign) {
		t.Errorf("%+v, was %+v", after, foreign)
	}
}

func TestChangeParamsOfStarted(t *testing.T) {
	c, drv := newClient(t, fake.Options{})
	started(t, c, drv, 0)
	drv.Forget()
	_, err := c.ChangeParams(t.Context(), 0, func(*ctrl.Params) error { return nil })
	if !errors.Is(err, fs.ErrPermission) || err.Error() != "device 0: SET_PARAMS: permission denied" {
		t.Errorf("%v", err)
	}
	var sets int
	for _, h := range drv.History() {
		if h.Op == uapi.CmdSetParams {
			sets++
		}
	}
	if sets != 1 {
		t.Errorf("%d sets: nothing was erased, nothing is to be restored", sets)
	}
}

// A context that ends while SET_PARAMS is under way does not keep the old
// parameters from being restored.
func TestChangeParamsRestoresAfterCancel(t *testing.T) {
	c, drv := newClient(t, fake.Options{})
	added(t, c, uapi.FlagIntegrity|uapi.FlagUserCopy)
	before, _ := drv.Stored(0)
	ctx, cancel := context.WithCancel(t.Context())
	drv.Freeze(uapi.CmdSetParams, false)
	done := make(chan error)
	go func() {
		_, err := c.ChangeParams(ctx, 0, brokenTuple)
		done <- err
	}()
	waitFor(t, drv, uapi.CmdSetParams)
	drv.Unfreeze(uapi.CmdSetParams)
	cancel() // may come first or last: either way nothing may be lost for good
	err := <-done
	must(t, drv.Wait(t.Context(), 0))
	if errors.Is(err, unix.EINVAL) {
		if after, _ := drv.Stored(0); !sameParams(after, before) {
			t.Errorf("%+v, was %+v", after, before)
		}
	} else if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// waitFor sleeps until a command op is inside the driver.
func waitFor(t *testing.T, drv *fake.Driver, op uint32) {
	t.Helper()
	must(t, drv.Wait(t.Context(), 1))
	for !slices.ContainsFunc(drv.History(), func(c ctrldev.Command) bool { return c.Op == op }) {
		must(t, drv.Wait(t.Context(), 1))
	}
}
