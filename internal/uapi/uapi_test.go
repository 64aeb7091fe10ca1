package uapi

import (
	"testing"
	"unsafe"
)

// TestOffsets holds every field against the byte offsets of the C headers.
func TestOffsets(t *testing.T) {
	var (
		c  CtrlCmd
		d  DevInfo
		p  Params
		io IODesc
		ic IOCmd
		b  BatchIO
		e  BatchElem
		r  BufReg
		s  SQE
		s2 SQE128
		rp RingParams
	)
	for _, tt := range []struct {
		name      string
		got, want uintptr
	}{
		{"ctrl_cmd.queue_id", unsafe.Offsetof(c.QueueID), 4},
		{"ctrl_cmd.len", unsafe.Offsetof(c.Len), 6},
		{"ctrl_cmd.addr", unsafe.Offsetof(c.Addr), 8},
		{"ctrl_cmd.data", unsafe.Offsetof(c.Data), 16},
		{"ctrl_cmd.dev_path_len", unsafe.Offsetof(c.DevPathLen), 24},
		{"dev_info.queue_depth", unsafe.Offsetof(d.QueueDepth), 2},
		{"dev_info.state", unsafe.Offsetof(d.State), 4},
		{"dev_info.io_desc_size", unsafe.Offsetof(d.IODescSize), 6},
		{"dev_info.max_io_buf_bytes", unsafe.Offsetof(d.MaxIOBufBytes), 8},
		{"dev_info.dev_id", unsafe.Offsetof(d.DevID), 12},
		{"dev_info.ublksrv_pid", unsafe.Offsetof(d.ServerPID), 16},
		{"dev_info.flags", unsafe.Offsetof(d.Flags), 24},
		{"dev_info.ublksrv_flags", unsafe.Offsetof(d.ServerFlags), 32},
		{"dev_info.owner_uid", unsafe.Offsetof(d.OwnerUID), 40},
		{"dev_info.owner_gid", unsafe.Offsetof(d.OwnerGID), 44},
		{"params.basic", unsafe.Offsetof(p.Basic), 8},
		{"params.basic.max_sectors", unsafe.Offsetof(p.Basic.MaxSectors), 8},
		{"params.basic.dev_sectors", unsafe.Offsetof(p.Basic.DevSectors), 16},
		{"params.basic.virt_boundary_mask", unsafe.Offsetof(p.Basic.VirtBoundaryMask), 24},
		{"params.discard", unsafe.Offsetof(p.Discard), 40},
		{"params.discard.max_discard_segments", unsafe.Offsetof(p.Discard.MaxSegments), 16},
		{"params.devt", unsafe.Offsetof(p.Devt), 60},
		{"params.zoned", unsafe.Offsetof(p.Zoned), 76},
		{"params.dma", unsafe.Offsetof(p.DMAAlign), 108},
		{"params.seg", unsafe.Offsetof(p.Segment), 120},
		{"io_desc.nr_sectors", unsafe.Offsetof(io.NrSectors), 4},
		{"io_desc.start_sector", unsafe.Offsetof(io.StartSector), 8},
		{"io_desc.addr", unsafe.Offsetof(io.Addr), 16},
		{"io_cmd.tag", unsafe.Offsetof(ic.Tag), 2},
		{"io_cmd.result", unsafe.Offsetof(ic.Result), 4},
		{"io_cmd.addr", unsafe.Offsetof(ic.Addr), 8},
		{"batch_io.flags", unsafe.Offsetof(b.Flags), 2},
		{"batch_io.nr_elem", unsafe.Offsetof(b.NrElem), 4},
		{"batch_io.elem_bytes", unsafe.Offsetof(b.ElemBytes), 6},
		{"elem_header.buf_index", unsafe.Offsetof(e.BufIndex), 2},
		{"elem_header.result", unsafe.Offsetof(e.Result), 4},
		{"buf_reg.len", unsafe.Offsetof(r.Len), 8},
		{"buf_reg.flags", unsafe.Offsetof(r.Flags), 16},
		{"sqe.off", unsafe.Offsetof(s.Off), 8},
		{"sqe.addr", unsafe.Offsetof(s.Addr), 16},
		{"sqe.len", unsafe.Offsetof(s.Len), 24},
		{"sqe.op_flags", unsafe.Offsetof(s.OpFlags), 28},
		{"sqe.user_data", unsafe.Offsetof(s.UserData), 32},
		{"sqe.buf_index", unsafe.Offsetof(s.BufIndex), 40},
		{"sqe.file_index", unsafe.Offsetof(s.FileIndex), 44},
		{"sqe.cmd", unsafe.Offsetof(s.Cmd), 48},
		{"sqe128.cmd", unsafe.Offsetof(s2.Cmd), 48},
		{"io_uring_params.features", unsafe.Offsetof(rp.Features), 20},
		{"io_uring_params.sq_off", unsafe.Offsetof(rp.SQOff), 40},
		{"io_uring_params.cq_off", unsafe.Offsetof(rp.CQOff), 80},
	} {
		if tt.got != tt.want {
			t.Errorf("%s at byte %d, want %d", tt.name, tt.got, tt.want)
		}
	}
}

// TestIoctlEncoding recomputes every command code from its parts, as _IOR and
// _IOWR('u', nr, size) do.
func TestIoctlEncoding(t *testing.T) {
	const read, readWrite = 2, 3
	enc := func(dir, nr, size uint32) uint32 { return dir<<30 | size<<16 | 'u'<<8 | nr }
	for _, tt := range []struct {
		name          string
		got           uint32
		dir, nr, size uint32
	}{
		{"GET_QUEUE_AFFINITY", CmdGetQueueAffinity, read, 0x01, 32},
		{"GET_DEV_INFO", CmdGetDevInfo, read, 0x02, 32},
		{"ADD_DEV", CmdAddDev, readWrite, 0x04, 32},
		{"DEL_DEV", CmdDelDev, readWrite, 0x05, 32},
		{"START_DEV", CmdStartDev, readWrite, 0x06, 32},
		{"STOP_DEV", CmdStopDev, readWrite, 0x07, 32},
		{"SET_PARAMS", CmdSetParams, readWrite, 0x08, 32},
		{"GET_PARAMS", CmdGetParams, read, 0x09, 32},
		{"START_USER_RECOVERY", CmdStartUserRecovery, readWrite, 0x10, 32},
		{"END_USER_RECOVERY", CmdEndUserRecovery, readWrite, 0x11, 32},
		{"GET_DEV_INFO2", CmdGetDevInfo2, read, 0x12, 32},
		{"GET_FEATURES", CmdGetFeatures, read, 0x13, 32},
		{"DEL_DEV_ASYNC", CmdDelDevAsync, read, 0x14, 32},
		{"UPDATE_SIZE", CmdUpdateSize, readWrite, 0x15, 32},
		{"QUIESCE_DEV", CmdQuiesceDev, readWrite, 0x16, 32},
		{"TRY_STOP_DEV", CmdTryStopDev, readWrite, 0x17, 32},
		{"REG_BUF", CmdRegBuf, readWrite, 0x18, 32},
		{"UNREG_BUF", CmdUnregBuf, readWrite, 0x19, 32},
		{"FETCH_REQ", IOFetchReq, readWrite, 0x20, 16},
		{"COMMIT_AND_FETCH_REQ", IOCommitAndFetch, readWrite, 0x21, 16},
		{"NEED_GET_DATA", IONeedGetData, readWrite, 0x22, 16},
		{"REGISTER_IO_BUF", IORegisterBuf, readWrite, 0x23, 16},
		{"UNREGISTER_IO_BUF", IOUnregisterBuf, readWrite, 0x24, 16},
		{"PREP_IO_CMDS", IOPrepCmds, readWrite, 0x25, 16},
		{"COMMIT_IO_CMDS", IOCommitCmds, readWrite, 0x26, 16},
		{"FETCH_IO_CMDS", IOFetchCmds, readWrite, 0x27, 16},
	} {
		if want := enc(tt.dir, tt.nr, tt.size); tt.got != want {
			t.Errorf("%s = %#x, want %#x", tt.name, tt.got, want)
		}
	}
}
