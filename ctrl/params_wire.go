package ctrl

import "ublk/internal/uapi"

var attrBits = [...]uint32{uapi.AttrReadOnly, uapi.AttrRotational, uapi.AttrVolatileCache, uapi.AttrFUA}

func (b *BasicParams) attrs() [4]*bool {
	return [...]*bool{&b.ReadOnly, &b.Rotational, &b.VolatileCache, &b.FUA}
}

// toWire lays out the groups that are present, except Devt, which the driver
// rejects.
func (p *Params) toWire() uapi.Params {
	w := uapi.Params{Len: uapi.ParamsLen}
	if b := p.Basic; b != nil {
		w.Types |= uapi.ParamBasic
		w.Basic = uapi.ParamsBasic{
			LogicalBSShift: b.LogicalBlockShift, PhysicalBSShift: b.PhysicalBlockShift,
			IOOptShift: b.IOOptShift, IOMinShift: b.IOMinShift,
			MaxSectors: b.MaxSectors, ChunkSectors: b.ChunkSectors,
			DevSectors: b.DevSectors, VirtBoundaryMask: b.VirtBoundaryMask,
		}
		for i, set := range b.attrs() {
			if *set {
				w.Basic.Attrs |= attrBits[i]
			}
		}
	}
	if d := p.Discard; d != nil {
		w.Types |= uapi.ParamDiscard
		w.Discard = uapi.ParamsDiscard{
			Alignment: d.Alignment, Granularity: d.Granularity, MaxSectors: d.MaxSectors,
			MaxWriteZeroesSectors: d.MaxWriteZeroesSectors, MaxSegments: d.MaxSegments,
		}
	}
	if z := p.Zoned; z != nil {
		w.Types |= uapi.ParamZoned
		w.Zoned = uapi.ParamsZoned{MaxOpenZones: z.MaxOpenZones, MaxActiveZones: z.MaxActiveZones, MaxAppendSectors: z.MaxAppendSectors}
	}
	if d := p.DMAAlign; d != nil {
		w.Types |= uapi.ParamDMAAlign
		w.DMAAlign.Alignment = d.Mask
	}
	if s := p.Segment; s != nil {
		w.Types |= uapi.ParamSegment
		w.Segment = uapi.ParamsSegment{BoundaryMask: s.BoundaryMask, MaxSize: s.MaxSize, MaxSegments: s.MaxSegments}
	}
	if i := p.Integrity; i != nil {
		w.Types |= uapi.ParamIntegrity
		w.Integrity = uapi.ParamsIntegrity{
			Flags: i.Flags, MaxSegments: i.MaxSegments, IntervalExp: i.IntervalExp, MetadataSize: i.MetadataSize,
			PIOffset: i.PIOffset, CsumType: i.CsumType, TagSize: i.TagSize,
		}
	}
	return w
}

func paramsFromWire(w *uapi.Params) Params {
	var p Params
	if w.Types&uapi.ParamBasic != 0 {
		p.Basic = &BasicParams{
			LogicalBlockShift: w.Basic.LogicalBSShift, PhysicalBlockShift: w.Basic.PhysicalBSShift,
			IOOptShift: w.Basic.IOOptShift, IOMinShift: w.Basic.IOMinShift,
			MaxSectors: w.Basic.MaxSectors, ChunkSectors: w.Basic.ChunkSectors,
			DevSectors: w.Basic.DevSectors, VirtBoundaryMask: w.Basic.VirtBoundaryMask,
		}
		for i, set := range p.Basic.attrs() {
			*set = w.Basic.Attrs&attrBits[i] != 0
		}
	}
	if w.Types&uapi.ParamDiscard != 0 {
		d := &w.Discard
		p.Discard = &DiscardParams{d.Alignment, d.Granularity, d.MaxSectors, d.MaxWriteZeroesSectors, d.MaxSegments}
	}
	if w.Types&uapi.ParamDevt != 0 {
		p.Devt = &DevtParams{w.Devt.CharMajor, w.Devt.CharMinor, w.Devt.DiskMajor, w.Devt.DiskMinor}
	}
	if w.Types&uapi.ParamZoned != 0 {
		p.Zoned = &ZonedParams{w.Zoned.MaxOpenZones, w.Zoned.MaxActiveZones, w.Zoned.MaxAppendSectors}
	}
	if w.Types&uapi.ParamDMAAlign != 0 {
		p.DMAAlign = &DMAAlignParams{w.DMAAlign.Alignment}
	}
	if w.Types&uapi.ParamSegment != 0 {
		p.Segment = &SegmentParams{w.Segment.BoundaryMask, w.Segment.MaxSize, w.Segment.MaxSegments}
	}
	if w.Types&uapi.ParamIntegrity != 0 {
		i := &w.Integrity
		p.Integrity = &IntegrityParams{i.Flags, i.MaxSegments, i.IntervalExp, i.MetadataSize, i.PIOffset, i.CsumType, i.TagSize}
	}
	return p
}
