package ctrl_test

import (
	"fmt"

	"golang.org/x/sys/unix"

	"ublk/internal/uapi"
)

// Short names for the steps below.
func open(e *env) error       { return e.OpenChar(e.id, e.pid) }
func fetch(e *env) error      { return e.FetchAll(e.id) }
func closeChar(e *env) error  { return e.CloseChar(e.id) }
func openBlock(e *env) error  { return e.OpenBlock(e.id) }
func closeBlock(e *env) error { return e.CloseBlock(e.id) }

var (
	del   = ok("DEL_DEV", cmd(uapi.CmdDelDev, 0))
	stop  = ok("STOP_DEV", cmd(uapi.CmdStopDev, 0))
	start = ok("START_DEV", serve(uapi.CmdStartDev))
)

// live are the steps from nothing to a LIVE device with those flags.
func live(flags uint64, then ...step) []step {
	return append([]step{ok("add", flagged(flags)), ok("set", set(nil)), ok("open", open), ok("fetch", fetch), start,
		ok("live", state(uapi.StateLive))}, then...)
}

const (
	recovery = uapi.FlagUserRecovery
	reissue  = uapi.FlagUserRecovery | uapi.FlagUserRecoveryReissue
	failIO   = uapi.FlagUserRecovery | uapi.FlagUserRecoveryFailIO
)

// flags expects ADD_DEV with these flags, and no others, to answer want on 7.3
// and old on 6.12.
func flags(ask, want, old uint64) step {
	return ok(fmt.Sprintf("flags %#x", ask), func(e *env) error {
		expect := want
		if e.old {
			expect = old
		}
		err := addGot(func(i *uapi.DevInfo) { i.Flags = ask }, func(i uapi.DevInfo) error {
			if i.Flags != expect {
				return fmt.Errorf("%#x, want %#x", i.Flags, expect)
			}
			return nil
		})(e)
		if err == nil {
			err = del.do(e)
		}
		return err
	})
}

func refused(what string, edit func(*uapi.DevInfo)) step { return fails(unix.EINVAL, what, add(edit)) }
func invalid(what string, edit func(*uapi.Params)) step  { return fails(unix.EINVAL, what, set(edit)) }

// scenarios are the facts of control plane and parameters, one table for the
// fake driver and for the real ones. Every scenario deletes what it added.
var scenarios = map[string][]step{
	"features": {
		fails(unix.EINVAL, "short", payload(uapi.CmdGetFeatures, 0, 4)),
		fails(unix.EINVAL, "long", payload(uapi.CmdGetFeatures, 0, 16)),
		fails(unix.EINVAL, "no buffer", payload(uapi.CmdGetFeatures, 0, 0)),
		ok("features", payload(uapi.CmdGetFeatures, 0, 8)),
		fails(unix.EOPNOTSUPP, "foreign command", payload(0xc0207804, 0, 8)),
	},
	"no device": {
		fails(unix.ENODEV, "info", payload(uapi.CmdGetDevInfo, 0, 64)),
		fails(unix.ENODEV, "info2", path(uapi.CmdGetDevInfo2, "/dev/ublkc77", 64)),
		fails(unix.ENODEV, "stop", cmd(uapi.CmdStopDev, 0)),
		fails(unix.ENODEV, "del", cmd(uapi.CmdDelDev, 0)),
		fails(unix.ENODEV, "unknown command", cmd(0xc0207530, 0)),
	},
	"add: refused": {
		fails(unix.EINVAL, "short", payload(uapi.CmdAddDev, 0, 63)),
		refused("depth 0", func(i *uapi.DevInfo) { i.QueueDepth = 0 }),
		refused("depth 4097", func(i *uapi.DevInfo) { i.QueueDepth = 4097 }),
		refused("queues 0", func(i *uapi.DevInfo) { i.NrHWQueues = 0 }),
		refused("queues 4097", func(i *uapi.DevInfo) { i.NrHWQueues = 4097 }),
		refused("id 2^20", func(i *uapi.DevInfo) { i.DevID = 1 << 20 }),
		refused("zoned without user copy", func(i *uapi.DevInfo) { i.Flags = uapi.FlagZoned }),
	},
	"add: flags": {
		flags(0, 0x26042, 0x42),
		flags(1<<40, 0x26042, 0x42),
		flags(uapi.FlagNeedGetData, 0x26046, 0x46),
		flags(uapi.FlagNeedGetData|uapi.FlagUserCopy, 0x260c2, 0xc2),
		flags(uapi.FlagNeedGetData|uapi.FlagSupportZeroCopy, 0x26043, 0x46),
		flags(uapi.FlagNeedGetData|uapi.FlagAutoBufReg, 0x26842, 0x46),
		flags(uapi.FlagNeedGetData|uapi.FlagBatchIO, 0x2c042, 0x46),
		flags(uapi.FlagUnprivilegedDev, 0x26042, 0x42),
		flags(reissue, 0x2605a, 0x5a),
		flags(uapi.FlagUserRecovery|uapi.FlagQuiesce, 0x2704a, 0x4a),
		flags(failIO, 0x2624a, 0x4a),
		flags(uapi.FlagZoned|uapi.FlagUserCopy, 0x261c2, 0x1c2),
	},
	"add: flags refused since 6.12": {
		refused("reissue alone", func(i *uapi.DevInfo) { i.Flags = uapi.FlagUserRecoveryReissue }).on612(nil),
		refused("fail-io alone", func(i *uapi.DevInfo) { i.Flags = uapi.FlagUserRecoveryFailIO }).on612(nil),
		refused("reissue and fail-io", func(i *uapi.DevInfo) { i.Flags = reissue | failIO }).on612(nil),
		refused("quiesce alone", func(i *uapi.DevInfo) { i.Flags = uapi.FlagQuiesce }).on612(nil),
		refused("integrity without user copy", func(i *uapi.DevInfo) { i.Flags = uapi.FlagIntegrity }).on612(nil),
		refused("descriptors of 16", func(i *uapi.DevInfo) { i.Flags, i.IODescSize = uapi.FlagIODescSize, 16 }).on612(nil),
		refused("descriptors of 36", func(i *uapi.DevInfo) { i.Flags, i.IODescSize = uapi.FlagIODescSize, 36 }).on612(nil),
		refused("descriptors of 264", func(i *uapi.DevInfo) { i.Flags, i.IODescSize = uapi.FlagIODescSize, 264 }).on612(nil),
		ok("delete what was accepted", func(e *env) error {
			for e.id >= 0 {
				if err := del.do(e); err != nil {
					return err
				}
				e.id--
			}
			return nil
		}),
	},
	"add: answer": {
		ok("clamps", addGot(func(i *uapi.DevInfo) {
			i.NrHWQueues, i.MaxIOBufBytes, i.State, i.ServerPID, i.ServerFlags = 64, 1<<19+4095, 0, 4711, 1<<63|5
		}, func(i uapi.DevInfo) error {
			if i.NrHWQueues < 1 || i.NrHWQueues >= 64 || i.MaxIOBufBytes != 1<<19 || i.ServerFlags != 1<<63|5 {
				return fmt.Errorf("%+v", i)
			}
			return nil
		})),
		ok("info", info(func(e *env, i uapi.DevInfo) error {
			size := uint16(24)
			if e.old {
				size = 0
			}
			if i.ServerPID != -1 || i.IODescSize != size || i.State != uapi.StateDead || int(i.DevID) != e.id {
				return fmt.Errorf("%+v", i)
			}
			return nil
		})),
		fails(unix.EEXIST, "the same id", func(e *env) error {
			id := e.id
			return add(func(i *uapi.DevInfo) { i.DevID = uint32(id) })(e)
		}),
		del,
		fails(unix.ENODEV, "deleted", state(0)),
		ok("no room for I/O", add(func(i *uapi.DevInfo) { i.MaxIOBufBytes = 4095 })),
		invalid("nothing fits", func(p *uapi.Params) { p.Basic.MaxSectors = 8 }),
		del,
	},
	"info": {
		ok("add", add(nil)),
		fails(unix.EINVAL, "short", payload(uapi.CmdGetDevInfo, 0, 63)),
		ok("long", payload(uapi.CmdGetDevInfo, 0, 128)),
		fails(unix.EINVAL, "info2 without path", payload(uapi.CmdGetDevInfo2, 0, 64)),
		fails(unix.ENOENT, "info2 of nothing", path(uapi.CmdGetDevInfo2, "/dev/ublkc77", 64)),
		fails(unix.EPERM, "info2 of something else", path(uapi.CmdGetDevInfo2, "/dev/null", 64)),
		fails(unix.EINVAL, "info2 short", path(uapi.CmdGetDevInfo2, "", 63)),
		ok("info2", path(uapi.CmdGetDevInfo2, "", 64)),
		fails(unix.EINVAL, "affinity short", payload(uapi.CmdGetQueueAffinity, 0, 0)),
		fails(unix.EINVAL, "affinity odd", payload(uapi.CmdGetQueueAffinity, 0, 12)),
		fails(unix.EINVAL, "affinity of queue 1", payload(uapi.CmdGetQueueAffinity, 1, 64)),
		ok("affinity", payload(uapi.CmdGetQueueAffinity, 0, 64)),
		fails(unix.EOPNOTSUPP, "unknown command", cmd(0xc0207530, 0)),
		del,
	},
	"params: header": {
		ok("add", add(nil)),
		ok("nothing stored", groups(uapi.ParamDevt)),
		fails(unix.EINVAL, "get: 8 bytes", payload(uapi.CmdGetParams, 0, 8)),
		fails(unix.EINVAL, "get: length 0", payload(uapi.CmdGetParams, 0, 152)),
		fails(unix.EINVAL, "set: 8 bytes", payload(uapi.CmdSetParams, 0, 8)),
		ok("set", set(nil)),
		invalid("set: length 0", func(p *uapi.Params) { p.Len = 0 }),
		invalid("set: length too large", func(p *uapi.Params) { p.Len = 153 }),
		invalid("set: no types", func(p *uapi.Params) { p.Types = 0 }),
		ok("a bad header changes nothing", groups(uapi.ParamBasic|uapi.ParamDevt)),
		ok("unknown types are dropped", set(func(p *uapi.Params) { p.Types |= 1 << 20 })),
		ok("dropped", groups(uapi.ParamBasic|uapi.ParamDevt)),
		ok("a prefix is enough", set(func(p *uapi.Params) { p.Len = 40 })),
		invalid("what GET answers cannot be set", func(p *uapi.Params) { p.Types |= uapi.ParamDevt }),
		ok("a refused set erases", params(func(e *env, p uapi.Params) error {
			if p.Types != uapi.ParamDevt || !e.old && p.Basic != (uapi.ParamsBasic{}) {
				return fmt.Errorf("%+v", p)
			}
			return nil
		})),
		fails(unix.EINVAL, "start without parameters", serve(uapi.CmdStartDev)),
		del,
	},
	"params: basic and discard": {
		ok("add", add(nil)),
		invalid("logical 8", func(p *uapi.Params) { p.Basic.LogicalBSShift = 8 }),
		invalid("logical 13", func(p *uapi.Params) { p.Basic.LogicalBSShift, p.Basic.PhysicalBSShift = 13, 13 }),
		ok("logical 12", set(func(p *uapi.Params) { p.Basic.LogicalBSShift = 12 })),
		invalid("physical below logical", func(p *uapi.Params) { p.Basic.LogicalBSShift, p.Basic.PhysicalBSShift = 12, 11 }),
		invalid("physical 29", func(p *uapi.Params) { p.Basic.PhysicalBSShift = 29 }).on612(nil),
		invalid("io_min 29", func(p *uapi.Params) { p.Basic.IOMinShift = 29 }).on612(nil),
		invalid("io_opt 29", func(p *uapi.Params) { p.Basic.IOOptShift = 29 }).on612(nil),
		invalid("max_sectors below a page", func(p *uapi.Params) { p.Basic.MaxSectors = 7 }),
		ok("max_sectors one page", set(func(p *uapi.Params) { p.Basic.MaxSectors = 8 })),
		invalid("max_sectors above the buffer", func(p *uapi.Params) { p.Basic.MaxSectors = 1025 }),
		ok("capacity of half a block", set(func(p *uapi.Params) { p.Basic.LogicalBSShift, p.Basic.DevSectors = 12, 1001 })),
		ok("discard", set(func(p *uapi.Params) {
			p.Types |= uapi.ParamDiscard
			p.Discard = uapi.ParamsDiscard{Granularity: 4096, MaxSectors: 8, MaxSegments: 1}
		})),
		invalid("discard granularity", func(p *uapi.Params) { p.Types |= uapi.ParamDiscard }),
		invalid("discard segments", func(p *uapi.Params) {
			p.Types |= uapi.ParamDiscard
			p.Discard = uapi.ParamsDiscard{Granularity: 4096, MaxSectors: 8, MaxSegments: 2}
		}),
		invalid("no basic", func(p *uapi.Params) { p.Types = uapi.ParamDiscard; p.Discard.Granularity = 4096 }),
		invalid("zoned", func(p *uapi.Params) { p.Types |= uapi.ParamZoned }),
		del,
	},
	"params: memory and integrity": {
		ok("add", flagged(uapi.FlagIntegrity)),
		ok("dma", set(func(p *uapi.Params) { p.Types |= uapi.ParamDMAAlign; p.DMAAlign.Alignment = 4095 })),
		invalid("dma 4096", func(p *uapi.Params) { p.Types |= uapi.ParamDMAAlign; p.DMAAlign.Alignment = 4096 }).on612(nil),
		invalid("dma 6", func(p *uapi.Params) { p.Types |= uapi.ParamDMAAlign; p.DMAAlign.Alignment = 6 }).on612(nil),
		ok("segment", set(segment(4095, 4096))),
		invalid("segment mask", segment(4096, 4096)).on612(nil),
		invalid("segment mask too small", segment(2047, 4096)).on612(nil),
		invalid("segment mask of all ones", segment(^uint64(0), 4096)).on612(nil),
		invalid("segment size", segment(4095, 4095)).on612(nil),
		ok("integrity", set(integrity(1, 8, 9, 0))),
		invalid("integrity flag", integrity(4, 8, 9, 0)).on612(nil),
		invalid("no metadata", integrity(0, 0, 9, 0)).on612(nil),
		invalid("interval 8", integrity(0, 8, 8, 0)).on612(nil),
		invalid("interval above the block", integrity(0, 8, 10, 0)).on612(nil),
		invalid("reference tag without checksum", integrity(2, 8, 9, 0)).on612(nil),
		invalid("unknown checksum", integrity(0, 8, 9, 99)).on612(nil),
		invalid("tuple beyond metadata", integrity(0, 7, 9, 1)).on612(nil),
		del,
	},
	"params: zoned": {
		ok("add", flagged(uapi.FlagZoned)),
		invalid("no zoned group", nil),
		invalid("no zone size", zoned(0, 1, 1)),
		invalid("no append", zoned(256, 0, 1)),
		invalid("too many open", zoned(256, 1, 9)),
		ok("zoned", set(zoned(256, 1, 8))),
		invalid("zone size", zoned(255, 1, 1)),
		ok("what follows is not validated", set(func(p *uapi.Params) {
			zoned(256, 1, 8)(p)
			p.Types |= uapi.ParamDMAAlign
			p.DMAAlign.Alignment = 6
		})),
		del,
	},
}

func segment(mask uint64, size uint32) func(*uapi.Params) {
	return func(p *uapi.Params) {
		p.Types |= uapi.ParamSegment
		p.Segment = uapi.ParamsSegment{BoundaryMask: mask, MaxSize: size, MaxSegments: 8}
	}
}

func integrity(flags uint32, metadata, interval, csum uint8) func(*uapi.Params) {
	return func(p *uapi.Params) {
		p.Types |= uapi.ParamIntegrity
		p.Integrity = uapi.ParamsIntegrity{Flags: flags, MetadataSize: metadata, IntervalExp: interval, CsumType: csum}
	}
}

func zoned(chunk, appendSectors, open uint32) func(*uapi.Params) {
	return func(p *uapi.Params) {
		p.Types |= uapi.ParamZoned
		p.Basic.ChunkSectors = chunk
		p.Zoned = uapi.ParamsZoned{MaxAppendSectors: appendSectors, MaxOpenZones: open}
	}
}
