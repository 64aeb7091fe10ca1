package uapi

import (
	"structs"
	"unsafe"
)

// Control commands: complete cmd_op values (ioctl encoding, type 'u', 32-byte
// payload). The legacy bare numbers are never used.
const (
	CmdGetQueueAffinity  = 0x80207501 // UBLK_U_CMD_GET_QUEUE_AFFINITY, 6.0
	CmdGetDevInfo        = 0x80207502 // UBLK_U_CMD_GET_DEV_INFO, 6.0
	CmdAddDev            = 0xc0207504 // UBLK_U_CMD_ADD_DEV, 6.0
	CmdDelDev            = 0xc0207505 // UBLK_U_CMD_DEL_DEV, 6.0
	CmdStartDev          = 0xc0207506 // UBLK_U_CMD_START_DEV, 6.0
	CmdStopDev           = 0xc0207507 // UBLK_U_CMD_STOP_DEV, 6.0
	CmdSetParams         = 0xc0207508 // UBLK_U_CMD_SET_PARAMS, 6.0
	CmdGetParams         = 0x80207509 // UBLK_U_CMD_GET_PARAMS, 6.0
	CmdStartUserRecovery = 0xc0207510 // UBLK_U_CMD_START_USER_RECOVERY, 6.1
	CmdEndUserRecovery   = 0xc0207511 // UBLK_U_CMD_END_USER_RECOVERY, 6.1
	CmdGetDevInfo2       = 0x80207512 // UBLK_U_CMD_GET_DEV_INFO2, 6.3
	CmdGetFeatures       = 0x80207513 // UBLK_U_CMD_GET_FEATURES, 6.5
	CmdDelDevAsync       = 0x80207514 // UBLK_U_CMD_DEL_DEV_ASYNC, 6.9
	CmdUpdateSize        = 0xc0207515 // UBLK_U_CMD_UPDATE_SIZE, 6.16
	CmdQuiesceDev        = 0xc0207516 // UBLK_U_CMD_QUIESCE_DEV, 6.16
	CmdTryStopDev        = 0xc0207517 // UBLK_U_CMD_TRY_STOP_DEV, 7.0
	CmdRegBuf            = 0xc0207518 // UBLK_U_CMD_REG_BUF, 7.1
	CmdUnregBuf          = 0xc0207519 // UBLK_U_CMD_UNREG_BUF, 7.1
)

// Data-plane commands: complete cmd_op values (16-byte payload).
const (
	IOFetchReq         = 0xc0107520 // UBLK_U_IO_FETCH_REQ
	IOCommitAndFetch   = 0xc0107521 // UBLK_U_IO_COMMIT_AND_FETCH_REQ
	IONeedGetData      = 0xc0107522 // UBLK_U_IO_NEED_GET_DATA
	IORegisterBuf      = 0xc0107523 // UBLK_U_IO_REGISTER_IO_BUF
	IOUnregisterBuf    = 0xc0107524 // UBLK_U_IO_UNREGISTER_IO_BUF
	IOPrepCmds         = 0xc0107525 // UBLK_U_IO_PREP_IO_CMDS
	IOCommitCmds       = 0xc0107526 // UBLK_U_IO_COMMIT_IO_CMDS
	IOFetchCmds        = 0xc0107527 // UBLK_U_IO_FETCH_IO_CMDS
	IOResOK            = 0          // UBLK_IO_RES_OK
	IOResNeedGetData   = 1          // UBLK_IO_RES_NEED_GET_DATA
	AutoBufRegFallback = 1 << 0     // UBLK_AUTO_BUF_REG_FALLBACK, bit 16 of sqe->addr
)

// Device flags and feature bits.
const (
	FlagSupportZeroCopy     uint64 = 1 << 0  // UBLK_F_SUPPORT_ZERO_COPY
	FlagURingCmdCompInTask  uint64 = 1 << 1  // UBLK_F_URING_CMD_COMP_IN_TASK
	FlagNeedGetData         uint64 = 1 << 2  // UBLK_F_NEED_GET_DATA
	FlagUserRecovery        uint64 = 1 << 3  // UBLK_F_USER_RECOVERY
	FlagUserRecoveryReissue uint64 = 1 << 4  // UBLK_F_USER_RECOVERY_REISSUE
	FlagUnprivilegedDev     uint64 = 1 << 5  // UBLK_F_UNPRIVILEGED_DEV
	FlagCmdIoctlEncode      uint64 = 1 << 6  // UBLK_F_CMD_IOCTL_ENCODE
	FlagUserCopy            uint64 = 1 << 7  // UBLK_F_USER_COPY
	FlagZoned               uint64 = 1 << 8  // UBLK_F_ZONED
	FlagUserRecoveryFailIO  uint64 = 1 << 9  // UBLK_F_USER_RECOVERY_FAIL_IO
	FlagUpdateSize          uint64 = 1 << 10 // UBLK_F_UPDATE_SIZE
	FlagAutoBufReg          uint64 = 1 << 11 // UBLK_F_AUTO_BUF_REG
	FlagQuiesce             uint64 = 1 << 12 // UBLK_F_QUIESCE
	FlagPerIODaemon         uint64 = 1 << 13 // UBLK_F_PER_IO_DAEMON
	FlagBufRegOffDaemon     uint64 = 1 << 14 // UBLK_F_BUF_REG_OFF_DAEMON
	FlagBatchIO             uint64 = 1 << 15 // UBLK_F_BATCH_IO
	FlagIntegrity           uint64 = 1 << 16 // UBLK_F_INTEGRITY
	FlagSafeStopDev         uint64 = 1 << 17 // UBLK_F_SAFE_STOP_DEV
	FlagNoAutoPartScan      uint64 = 1 << 18 // UBLK_F_NO_AUTO_PART_SCAN
	FlagShmemZC             uint64 = 1 << 19 // UBLK_F_SHMEM_ZC
	FlagIODescSize          uint64 = 1 << 20 // UBLK_F_IO_DESC_SIZE
	AnyDevice               uint32 = 0xffffffff
	AllQueues               uint16 = 0xffff
	MaxQueueDepth                  = 4096    // UBLK_MAX_QUEUE_DEPTH
	MaxQueues                      = 4096    // UBLK_MAX_NR_QUEUES
	MaxDevices                     = 1 << 20 // ids are 0..2^20-1
	IODescSize                     = 24
)

// Device states (ublksrv_ctrl_dev_info.state).
const (
	StateDead     uint16 = 0 // UBLK_S_DEV_DEAD
	StateLive     uint16 = 1 // UBLK_S_DEV_LIVE
	StateQuiesced uint16 = 2 // UBLK_S_DEV_QUIESCED
	StateFailIO   uint16 = 3 // UBLK_S_DEV_FAIL_IO
)

// Parameter groups (ublk_params.types) and attributes (ublk_param_basic.attrs).
const (
	ParamBasic     uint32 = 1 << 0 // UBLK_PARAM_TYPE_BASIC
	ParamDiscard   uint32 = 1 << 1 // UBLK_PARAM_TYPE_DISCARD
	ParamDevt      uint32 = 1 << 2 // UBLK_PARAM_TYPE_DEVT, read only
	ParamZoned     uint32 = 1 << 3 // UBLK_PARAM_TYPE_ZONED
	ParamDMAAlign  uint32 = 1 << 4 // UBLK_PARAM_TYPE_DMA_ALIGN
	ParamSegment   uint32 = 1 << 5 // UBLK_PARAM_TYPE_SEGMENT
	ParamIntegrity uint32 = 1 << 6 // UBLK_PARAM_TYPE_INTEGRITY

	AttrReadOnly      uint32 = 1 << 0 // UBLK_ATTR_READ_ONLY
	AttrRotational    uint32 = 1 << 1 // UBLK_ATTR_ROTATIONAL
	AttrVolatileCache uint32 = 1 << 2 // UBLK_ATTR_VOLATILE_CACHE
	AttrFUA           uint32 = 1 << 3 // UBLK_ATTR_FUA
)

// I/O operations (low byte of ublksrv_io_desc.op_flags) and flags, which are
// constants in op_flags position: never shift before comparing.
const (
	OpRead         = 0
	OpWrite        = 1
	OpFlush        = 2
	OpDiscard      = 3
	OpWriteSame    = 4 // defined, never sent
	OpWriteZeroes  = 5
	OpZoneOpen     = 10
	OpZoneClose    = 11
	OpZoneFinish   = 12
	OpZoneAppend   = 13
	OpZoneResetAll = 14
	OpZoneReset    = 15
	OpReportZones  = 18
	OpMask         = 0xff

	IOFailfastDev       uint32 = 1 << 8  // UBLK_IO_F_FAILFAST_DEV
	IOFailfastTransport uint32 = 1 << 9  // UBLK_IO_F_FAILFAST_TRANSPORT
	IOFailfastDriver    uint32 = 1 << 10 // UBLK_IO_F_FAILFAST_DRIVER
	IOMeta              uint32 = 1 << 11 // UBLK_IO_F_META
	IOFUA               uint32 = 1 << 13 // UBLK_IO_F_FUA
	IONoUnmap           uint32 = 1 << 15 // UBLK_IO_F_NOUNMAP
	IOSwap              uint32 = 1 << 16 // UBLK_IO_F_SWAP
	IONeedRegBuf        uint32 = 1 << 17 // UBLK_IO_F_NEED_REG_BUF
	IOIntegrity         uint32 = 1 << 18 // UBLK_IO_F_INTEGRITY
	IOShmemZC           uint32 = 1 << 19 // UBLK_IO_F_SHMEM_ZC
)

// Positions of the user-copy window on the char device
// (ublk_cmd.h: UBLKSRV_IO_BUF_OFFSET and the shifts beside it).
const (
	UserCopyBase     = 0x80000000
	UserCopyTagShift = 25
	UserCopyQShift   = 41
	UserCopyMaxBytes = 1 << UserCopyTagShift // one request, 32 MiB
)

// CtrlCmd is the payload of a control command (struct ublksrv_ctrl_cmd).
type CtrlCmd struct {
	_          structs.HostLayout
	DevID      uint32
	QueueID    uint16
	Len        uint16
	Addr       uint64
	Data       uint64
	DevPathLen uint16
	_          uint16
	_          uint32
}

// DevInfo describes a device (struct ublksrv_ctrl_dev_info).
type DevInfo struct {
	_             structs.HostLayout
	NrHWQueues    uint16
	QueueDepth    uint16
	State         uint16
	IODescSize    uint16 // zero before 7.3: 24
	MaxIOBufBytes uint32
	DevID         uint32
	ServerPID     int32
	_             uint32
	Flags         uint64
	ServerFlags   uint64 // stored and returned verbatim
	OwnerUID      uint32
	OwnerGID      uint32
	_             uint64
	_             uint64
}

// ParamsBasic is struct ublk_param_basic.
type ParamsBasic struct {
	_                structs.HostLayout
	Attrs            uint32
	LogicalBSShift   uint8
	PhysicalBSShift  uint8
	IOOptShift       uint8
	IOMinShift       uint8
	MaxSectors       uint32
	ChunkSectors     uint32
	DevSectors       uint64
	VirtBoundaryMask uint64
}

// ParamsDiscard is struct ublk_param_discard.
type ParamsDiscard struct {
	_                     structs.HostLayout
	Alignment             uint32
	Granularity           uint32
	MaxSectors            uint32
	MaxWriteZeroesSectors uint32
	MaxSegments           uint16
	_                     uint16
}

// ParamsDevt is struct ublk_param_devt; the driver fills it in.
type ParamsDevt struct {
	_         structs.HostLayout
	CharMajor uint32
	CharMinor uint32
	DiskMajor uint32
	DiskMinor uint32
}

// ParamsZoned is struct ublk_param_zoned.
type ParamsZoned struct {
	_                structs.HostLayout
	MaxOpenZones     uint32
	MaxActiveZones   uint32
	MaxAppendSectors uint32
	_                [20]byte
}

// ParamsDMAAlign is struct ublk_param_dma_align.
type ParamsDMAAlign struct {
	_         structs.HostLayout
	Alignment uint32 // a mask: alignment - 1
	_         uint32
}

// ParamsSegment is struct ublk_param_segment.
type ParamsSegment struct {
	_            structs.HostLayout
	BoundaryMask uint64
	MaxSize      uint32
	MaxSegments  uint16
	_            uint16
}

// ParamsIntegrity is struct ublk_param_integrity.
type ParamsIntegrity struct {
	_            structs.HostLayout
	Flags        uint32
	MaxSegments  uint16
	IntervalExp  uint8
	MetadataSize uint8
	PIOffset     uint8
	CsumType     uint8
	TagSize      uint8
	_            [5]byte
}

// Params is struct ublk_params as of v7.3. A prefix of it may be sent; older
// kernels ignore what they do not know.
type Params struct {
	_         structs.HostLayout
	Len       uint32
	Types     uint32
	Basic     ParamsBasic
	Discard   ParamsDiscard
	Devt      ParamsDevt
	Zoned     ParamsZoned
	DMAAlign  ParamsDMAAlign
	Segment   ParamsSegment
	Integrity ParamsIntegrity
}

// ParamsLen is the length of a complete Params block.
const ParamsLen = uint32(unsafe.Sizeof(Params{}))

// IODesc is one descriptor of the mapping of /dev/ublkcN (struct
// ublksrv_io_desc). Sectors are 512 bytes whatever the logical block size.
type IODesc struct {
	_           structs.HostLayout
	OpFlags     uint32
	NrSectors   uint32
	StartSector uint64
	Addr        uint64
}

// IOCmd is the payload of a classic data-plane command (struct ublksrv_io_cmd).
type IOCmd struct {
	_      structs.HostLayout
	QID    uint16
	Tag    uint16
	Result int32
	Addr   uint64
}

// BatchIO is the payload of a batch command (struct ublk_batch_io).
type BatchIO struct {
	_         structs.HostLayout
	QID       uint16
	Flags     uint16
	NrElem    uint16
	ElemBytes uint8
	_         uint8
	_         uint64
}

// Batch command flags.
const (
	BatchHasZoneLBA         uint16 = 1 << 0 // UBLK_BATCH_F_HAS_ZONE_LBA
	BatchHasBufAddr         uint16 = 1 << 1 // UBLK_BATCH_F_HAS_BUF_ADDR
	BatchAutoBufRegFallback uint16 = 1 << 2 // UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK
)

// BatchElem is one element of a batch (struct ublk_elem_header).
type BatchElem struct {
	_        structs.HostLayout
	Tag      uint16
	BufIndex uint16
	Result   int32
}

// BatchElemAddr is an element with UBLK_BATCH_F_HAS_BUF_ADDR.
type BatchElemAddr struct {
	_ structs.HostLayout
	BatchElem
	Addr uint64
}

// BufReg is the payload of REG_BUF (struct ublk_shmem_buf_reg).
type BufReg struct {
	_     structs.HostLayout
	Addr  uint64
	Len   uint64
	Flags uint32
	_     uint32
}

var (
	_ [32]byte  = [unsafe.Sizeof(CtrlCmd{})]byte{}
	_ [64]byte  = [unsafe.Sizeof(DevInfo{})]byte{}
	_ [32]byte  = [unsafe.Sizeof(ParamsBasic{})]byte{}
	_ [20]byte  = [unsafe.Sizeof(ParamsDiscard{})]byte{}
	_ [16]byte  = [unsafe.Sizeof(ParamsDevt{})]byte{}
	_ [32]byte  = [unsafe.Sizeof(ParamsZoned{})]byte{}
	_ [8]byte   = [unsafe.Sizeof(ParamsDMAAlign{})]byte{}
	_ [16]byte  = [unsafe.Sizeof(ParamsSegment{})]byte{}
	_ [16]byte  = [unsafe.Sizeof(ParamsIntegrity{})]byte{}
	_ [152]byte = [unsafe.Sizeof(Params{})]byte{}
	_ [24]byte  = [unsafe.Sizeof(IODesc{})]byte{}
	_ [16]byte  = [unsafe.Sizeof(IOCmd{})]byte{}
	_ [16]byte  = [unsafe.Sizeof(BatchIO{})]byte{}
	_ [8]byte   = [unsafe.Sizeof(BatchElem{})]byte{}
	_ [24]byte  = [unsafe.Sizeof(BufReg{})]byte{}
)
