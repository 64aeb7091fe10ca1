package uapi

import (
	"structs"
	"unsafe"
)

// SQE is the 64-byte submission entry (struct io_uring_sqe). The unions are
// named for what this program puts there; Cmd is the payload of a uring_cmd,
// of which a 64-byte entry has 16 bytes.
type SQE struct {
	_           structs.HostLayout
	Opcode      uint8
	Flags       uint8
	IOPrio      uint16
	Fd          int32
	Off         uint64 // offset, addr2, or cmd_op in the low half
	Addr        uint64
	Len         uint32
	OpFlags     uint32 // rw_flags, fsync_flags, uring_cmd_flags …
	UserData    uint64
	BufIndex    uint16 // or buf_group
	Personality uint16
	FileIndex   int32
	Cmd         [16]byte
}

// SQE128 is the 128-byte entry of a ring with IORING_SETUP_SQE128. Cmd starts
// at byte 48 as in SQE and has 80 bytes.
type SQE128 struct {
	_           structs.HostLayout
	Opcode      uint8
	Flags       uint8
	IOPrio      uint16
	Fd          int32
	Off         uint64
	Addr        uint64
	Len         uint32
	OpFlags     uint32
	UserData    uint64
	BufIndex    uint16
	Personality uint16
	FileIndex   int32
	Cmd         [80]byte
}

// CQE is a completion (struct io_uring_cqe).
type CQE struct {
	_        structs.HostLayout
	UserData uint64
	Res      int32
	Flags    uint32
}

// SQRingOffsets is struct io_sqring_offsets.
type SQRingOffsets struct {
	_                                                               structs.HostLayout
	Head, Tail, RingMask, RingEntries, Flags, Dropped, Array, Resv1 uint32
	UserAddr                                                        uint64
}

// CQRingOffsets is struct io_cqring_offsets.
type CQRingOffsets struct {
	_                                                               structs.HostLayout
	Head, Tail, RingMask, RingEntries, Overflow, CQEs, Flags, Resv1 uint32
	UserAddr                                                        uint64
}

// RingParams is struct io_uring_params.
type RingParams struct {
	_                                                                      structs.HostLayout
	SQEntries, CQEntries, Flags, SQThreadCPU, SQThreadIdle, Features, WQFd uint32
	_                                                                      [3]uint32
	SQOff                                                                  SQRingOffsets
	CQOff                                                                  CQRingOffsets
}

// Timespec is struct __kernel_timespec.
type Timespec struct {
	_    structs.HostLayout
	Sec  int64
	Nsec int64
}

// GetEventsArg is struct io_uring_getevents_arg.
type GetEventsArg struct {
	_           structs.HostLayout
	Sigmask     uint64
	SigmaskSize uint32
	MinWaitUsec uint32
	Ts          uint64
}

// RsrcRegister is struct io_uring_rsrc_register.
type RsrcRegister struct {
	_     structs.HostLayout
	Nr    uint32
	Flags uint32
	_     uint64
	Data  uint64
	Tags  uint64
}

// RsrcUpdate is struct io_uring_rsrc_update.
type RsrcUpdate struct {
	_      structs.HostLayout
	Offset uint32
	_      uint32
	Data   uint64
}

// BufRingReg is struct io_uring_buf_reg.
type BufRingReg struct {
	_           structs.HostLayout
	RingAddr    uint64
	RingEntries uint32
	Bgid        uint16
	Flags       uint16
	_           [3]uint64
}

// BufRingEntry is struct io_uring_buf. Resv of entry 0 is the ring's tail.
type BufRingEntry struct {
	_    structs.HostLayout
	Addr uint64
	Len  uint32
	Bid  uint16
	Resv uint16
}

var (
	_ [64]byte  = [unsafe.Sizeof(SQE{})]byte{}
	_ [128]byte = [unsafe.Sizeof(SQE128{})]byte{}
	_ [16]byte  = [unsafe.Sizeof(CQE{})]byte{}
	_ [40]byte  = [unsafe.Sizeof(SQRingOffsets{})]byte{}
	_ [40]byte  = [unsafe.Sizeof(CQRingOffsets{})]byte{}
	_ [120]byte = [unsafe.Sizeof(RingParams{})]byte{}
	_ [16]byte  = [unsafe.Sizeof(Timespec{})]byte{}
	_ [24]byte  = [unsafe.Sizeof(GetEventsArg{})]byte{}
	_ [32]byte  = [unsafe.Sizeof(RsrcRegister{})]byte{}
	_ [16]byte  = [unsafe.Sizeof(RsrcUpdate{})]byte{}
	_ [40]byte  = [unsafe.Sizeof(BufRingReg{})]byte{}
	_ [16]byte  = [unsafe.Sizeof(BufRingEntry{})]byte{}
)

// Operations (IORING_OP_*).
const (
	RingOpNop           = 0
	RingOpFsync         = 3
	RingOpReadFixed     = 4
	RingOpWriteFixed    = 5
	RingOpTimeout       = 11
	RingOpAsyncCancel   = 14
	RingOpFallocate     = 17
	RingOpRead          = 22
	RingOpWrite         = 23
	RingOpMsgRing       = 40
	RingOpURingCmd      = 46
	RingOpReadMultishot = 49
)

// SQE flags, command flags and CQE flags.
const (
	SQEFixedFile        = 1 << 0 // IOSQE_FIXED_FILE
	SQEAsync            = 1 << 4 // IOSQE_ASYNC
	SQEBufferSelect     = 1 << 5 // IOSQE_BUFFER_SELECT
	FsyncDatasync       = 1 << 0 // IORING_FSYNC_DATASYNC
	URingCmdMultishot   = 1 << 1 // IORING_URING_CMD_MULTISHOT
	AsyncCancelAll      = 1 << 0 // IORING_ASYNC_CANCEL_ALL
	AsyncCancelAny      = 1 << 2 // IORING_ASYNC_CANCEL_ANY
	CQEBuffer           = 1 << 0 // IORING_CQE_F_BUFFER
	CQEMore             = 1 << 1 // IORING_CQE_F_MORE
	CQEBufferShift      = 16
	SQNeedWakeup        = 1 << 0 // IORING_SQ_NEED_WAKEUP
	SQCQOverflow        = 1 << 1 // IORING_SQ_CQ_OVERFLOW
	EnterGetEvents      = 1 << 0 // IORING_ENTER_GETEVENTS
	EnterExtArg         = 1 << 3 // IORING_ENTER_EXT_ARG
	EnterRegisteredRing = 1 << 4 // IORING_ENTER_REGISTERED_RING
)

// Set-up flags (IORING_SETUP_*) and features (IORING_FEAT_*).
const (
	SetupCQSize       uint32 = 1 << 3
	SetupClamp        uint32 = 1 << 4
	SetupCoopTaskrun  uint32 = 1 << 8
	SetupSQE128       uint32 = 1 << 10
	SetupSingleIssuer uint32 = 1 << 12
	SetupDeferTaskrun uint32 = 1 << 13
	SetupNoSQArray    uint32 = 1 << 16

	FeatSingleMmap uint32 = 1 << 0
	FeatNoDrop     uint32 = 1 << 1
	FeatExtArg     uint32 = 1 << 8
)

// BlockCmdDiscard is BLOCK_URING_CMD_DISCARD of linux/blkdev.h (Linux 6.12):
// start in Addr, length in Addr3.
const BlockCmdDiscard = 0x12 << 8

// mmap offsets of a ring (IORING_OFF_*).
const (
	OffSQRing = 0
	OffSQEs   = 0x10000000
)

// Registrations (IORING_REGISTER_*).
const (
	RegisterBuffers     = 0
	UnregisterBuffers   = 1
	RegisterFiles2      = 13
	RegisterBuffers2    = 15
	RegisterRingFDs     = 20
	UnregisterRingFDs   = 21
	RegisterPbufRing    = 22
	UnregisterPbufRing  = 23
	RsrcRegisterSparse  = 1 << 0 // IORING_RSRC_REGISTER_SPARSE
	RegisterFilesUpdate = 6
)

// IOCmd is the payload of the entry seen as a classic ublk command.
func (s *SQE) IOCmd() *IOCmd { return (*IOCmd)(unsafe.Pointer(&s.Cmd)) }

// SetAddr3 sets addr3, which lies where the payload of a uring_cmd starts.
func (s *SQE) SetAddr3(v uint64) { *(*uint64)(unsafe.Pointer(&s.Cmd)) = v }

// BatchIO is the payload of the entry seen as a ublk batch command.
func (s *SQE) BatchIO() *BatchIO { return (*BatchIO)(unsafe.Pointer(&s.Cmd)) }

// CtrlCmd is the payload of the entry seen as a ublk control command.
func (s *SQE128) CtrlCmd() *CtrlCmd { return (*CtrlCmd)(unsafe.Pointer(&s.Cmd)) }

// Base is the first half of the entry: everything but the long payload.
func (s *SQE128) Base() *SQE { return (*SQE)(unsafe.Pointer(s)) }
