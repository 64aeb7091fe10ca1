package fake

import (
	"encoding/binary"
	"math"
	"math/bits"
	"os"

	"golang.org/x/sys/unix"

	"ublk/internal/uapi"
)

const (
	charMajor = 244 // of the char devices; their minor is the id
	diskMajor = 259 // of the block devices (extended)
	headerLen = 8   // struct ublk_params_header
)

// paramsLen is sizeof(struct ublk_params), paramTypes UBLK_PARAM_TYPE_ALL.
func (d *Driver) paramsLen() int {
	if d.opt.Kernel == Linux6_12 {
		return 112
	}
	return int(uapi.ParamsLen)
}

func (d *Driver) paramTypes() uint32 {
	if d.opt.Kernel == Linux6_12 {
		return uapi.ParamBasic | uapi.ParamDiscard | uapi.ParamDevt | uapi.ParamZoned
	}
	return 0x7f
}

func (k *call) getParams(dev *device) unix.Errno {
	if len(k.arg) <= headerLen {
		return unix.EINVAL
	}
	n := binary.NativeEndian.Uint32(k.arg)
	if n == 0 || uint64(n) > uint64(len(k.arg)) {
		return unix.EINVAL
	}
	k.lock(dev)
	defer k.unlock(dev)
	id := dev.info.DevID
	dev.params.Devt = uapi.ParamsDevt{CharMajor: charMajor, CharMinor: id}
	if dev.live() {
		dev.params.Devt.DiskMajor, dev.params.Devt.DiskMinor = diskMajor, id
	}
	dev.params.Types |= uapi.ParamDevt
	copy(k.arg, uapi.Bytes(&dev.params)[:min(int(n), k.paramsLen())])
	return 0
}

func (k *call) setParams(dev *device) unix.Errno {
	if len(k.arg) <= headerLen {
		return unix.EINVAL
	}
	n, types := binary.NativeEndian.Uint32(k.arg), binary.NativeEndian.Uint32(k.arg[4:])
	if n == 0 || uint64(n) > uint64(len(k.arg)) || types == 0 {
		return unix.EINVAL
	}
	k.lock(dev)
	defer k.unlock(dev)
	if dev.disk != nil {
		return unix.EACCES
	}
	copy(uapi.Bytes(&dev.params), k.arg[:min(int(n), k.paramsLen())])
	dev.params.Types &= k.paramTypes()
	shift := uint8(28) // 256 MiB
	if k.opt.Kernel == Linux6_12 {
		shift = math.MaxUint8
	}
	if dev.valid(shift) {
		return 0
	}
	// Older kernels forget only which groups there were.
	if k.opt.Kernel == Linux6_12 {
		dev.params.Types = 0
	} else {
		dev.params = uapi.Params{}
	}
	return unix.EINVAL
}

// valid is ublk_drv.c:ublk_validate_params. shift bounds the exponents of
// physical block and I/O sizes.
func (dev *device) valid(shift uint8) bool {
	p := &dev.params
	has := func(group uint32) bool { return p.Types&group != 0 }
	zoned := dev.has(uapi.FlagZoned)
	switch {
	case !has(uapi.ParamBasic) || !validBasic(&p.Basic, dev.info.MaxIOBufBytes, shift):
		return false
	case zoned && bits.OnesCount32(p.Basic.ChunkSectors) != 1:
		return false
	case has(uapi.ParamDiscard) && (p.Discard.Granularity == 0 || p.Discard.MaxSectors != 0 && p.Discard.MaxSegments != 1):
		return false
	case has(uapi.ParamDevt):
		return false
	case has(uapi.ParamZoned): // whatever the groups after this one say
		return zoned && validZoned(p)
	case zoned:
		return false
	case has(uapi.ParamDMAAlign) && !validDMA(p.DMAAlign.Alignment):
		return false
	case has(uapi.ParamSegment) && !validSegment(&p.Segment):
		return false
	case has(uapi.ParamIntegrity):
		return dev.has(uapi.FlagIntegrity) && validIntegrity(&p.Integrity, p.Basic.LogicalBSShift)
	}
	return true
}

func validBasic(b *uapi.ParamsBasic, maxIO uint32, most uint8) bool {
	page := uint32(os.Getpagesize())
	return b.LogicalBSShift >= 9 && int(b.LogicalBSShift) < bits.Len32(page) &&
		b.PhysicalBSShift <= most && b.IOMinShift <= most && b.IOOptShift <= most &&
		b.LogicalBSShift <= b.PhysicalBSShift &&
		b.MaxSectors <= maxIO>>9 && b.MaxSectors >= page>>9
}

func validZoned(p *uapi.Params) bool {
	zones := p.Basic.DevSectors / uint64(p.Basic.ChunkSectors)
	return p.Zoned.MaxAppendSectors != 0 && uint64(p.Zoned.MaxActiveZones) <= zones && uint64(p.Zoned.MaxOpenZones) <= zones
}

func validDMA(mask uint32) bool {
	return mask < uint32(os.Getpagesize()) && mask&(mask+1) == 0
}

func validSegment(s *uapi.ParamsSegment) bool {
	const least = 4096
	// A mask of all ones overflows to 0, which is no power of two.
	return bits.OnesCount64(s.BoundaryMask+1) == 1 && s.BoundaryMask+1 >= least && s.MaxSize >= least
}

func validIntegrity(i *uapi.ParamsIntegrity, blockShift uint8) bool {
	const integrity, refTag = 1, 2 // LBMD_PI_CAP_…
	tuple, known := map[uint8]int{0: 0, 1: 8, 2: 8, 4: 16}[i.CsumType]
	switch {
	case i.Flags&^(integrity|refTag) != 0 || !known || i.MetadataSize == 0:
		return false
	case i.CsumType == 0 && i.Flags&refTag != 0:
		return false
	case int(i.PIOffset)+tuple > int(i.MetadataSize):
		return false
	}
	return i.IntervalExp >= 9 && i.IntervalExp <= blockShift
}
