package fake

import (
	"encoding/binary"
	"os"

	"golang.org/x/sys/unix"

	"ublk/internal/uapi"
)

// device is one ublk device; Driver.mu guards it.
type device struct {
	info      uapi.DevInfo
	params    uapi.Params
	access    access // of callers without CAP_SYS_ADMIN to the char device's node
	server    *server
	served    *server // whose threads the queues belong to, on 6.12 until START_USER_RECOVERY
	disk      *disk
	complete  bool // START_DEV and END_USER_RECOVERY need not wait for fetches
	locked    bool // ub->mutex is held
	deleted   bool // the nodes are gone
	blockOpen bool // TRY_STOP_DEV: openers without CAP_SYS_ADMIN are refused
	refs      int  // commands inside the driver
	bufs      map[int32]bool
}

type access uint8

const (
	accessRead access = 1 << iota
	accessWrite
)

// server is an open char device.
type server struct {
	pid     int // thread group of the opener
	fetched [][]bool
	ready   int
	held    int  // requests that it has not committed
	stopped bool // fetches are answered with ENODEV
	told    bool // its idle commands were completed with ENODEV
}

// disk is the block device. It is gone (removed) but there as long as somebody
// holds it open.
type disk struct {
	openers int
	gone    bool
}

func (dev *device) has(flag uint64) bool { return dev.info.Flags&flag == flag }
func (dev *device) tags() int            { return int(dev.info.NrHWQueues) * int(dev.info.QueueDepth) }
func (dev *device) live() bool           { return dev.disk != nil && !dev.disk.gone }
func (dev *device) ready() bool          { return dev.server != nil && dev.server.ready == dev.tags() }

// lock takes ub->mutex, which nothing interrupts.
func (k *call) lock(dev *device) {
	k.sleep(false, func() bool { return !dev.locked })
	dev.locked = true
}

func (k *call) unlock(dev *device) {
	dev.locked = false
	k.notify()
}

// put drops a command's reference.
func (d *Driver) put(dev *device) {
	dev.refs--
	d.release(dev)
}

// release frees the id of a deleted device that nobody refers to any more.
func (d *Driver) release(dev *device) {
	if dev.disk != nil && dev.disk.gone && dev.disk.openers == 0 {
		dev.disk = nil
	}
	id := dev.info.DevID
	if dev.deleted && dev.refs == 0 && dev.server == nil && dev.disk == nil && d.devices[id] == dev {
		delete(d.devices, id)
	}
	d.notify()
}

func (k *call) getFeatures() unix.Errno {
	if len(k.mem) != 8 {
		return unix.EINVAL
	}
	binary.NativeEndian.PutUint64(k.mem, k.opt.Kernel.Features())
	return 0
}

func (k *call) getDevInfo(dev *device) unix.Errno {
	info := dev.info
	out := uapi.Bytes(&info)
	if len(k.arg) < len(out) {
		return unix.EINVAL
	}
	// 6.12 answers what it stored; 7.3 looks whether that process is there.
	if k.opt.Kernel != Linux6_12 && (info.ServerPID <= 0 || k.exited[int(info.ServerPID)]) {
		info.ServerPID = -1
	}
	copy(k.arg, out)
	return 0
}

// getAffinity maps neighbouring CPUs to one queue. The kernel's own choice
// differs with the topology of the machine.
func (k *call) getAffinity(dev *device) unix.Errno {
	queue := k.cmd.Data
	if len(k.arg)*8 < k.opt.CPUs || len(k.arg)%8 != 0 || queue >= uint64(dev.info.NrHWQueues) {
		return unix.EINVAL
	}
	clear(k.arg)
	for cpu := range k.opt.CPUs {
		if uint64(cpu*int(dev.info.NrHWQueues)/k.opt.CPUs) == queue {
			word := k.arg[cpu/64*8:]
			binary.NativeEndian.PutUint64(word, binary.NativeEndian.Uint64(word)|1<<(cpu%64))
		}
	}
	return 0
}

const recoveryFlags = uapi.FlagUserRecovery | uapi.FlagUserRecoveryReissue | uapi.FlagUserRecoveryFailIO

func (k *call) addDev() unix.Errno {
	var info uapi.DevInfo
	wire := uapi.Bytes(&info)
	if len(k.mem) < len(wire) || k.cmd.QueueID != uapi.AllQueues {
		return unix.EINVAL
	}
	copy(wire, k.mem)
	if errno := k.checkAdd(&info); errno != 0 {
		return errno
	}
	if errno := k.sleep(true, func() bool { return !k.adding }); errno != 0 {
		return errno
	}
	if info.Flags&uapi.FlagUnprivilegedDev != 0 && k.unprivileged() >= k.opt.MaxUnprivileged {
		return unix.EACCES
	}
	id, errno := k.number(info.DevID)
	if errno != 0 {
		return errno
	}
	info.DevID = id
	k.negotiate(&info)
	if info.Flags&uapi.FlagZoned != 0 && info.Flags&(uapi.FlagUserCopy|uapi.FlagSupportZeroCopy) == 0 {
		return unix.EINVAL
	}
	dev := &device{info: info, bufs: map[int32]bool{}}
	k.devices[id] = dev
	k.notify()
	copy(k.mem, wire)
	return 0
}

// checkAdd holds what is refused of a request, and clears the flags that must
// be gone before the next check.
func (k *call) checkAdd(info *uapi.DevInfo) unix.Errno {
	if info.QueueDepth == 0 || info.QueueDepth > uapi.MaxQueueDepth || info.NrHWQueues == 0 || info.NrHWQueues > uapi.MaxQueues {
		return unix.EINVAL
	}
	if k.admin {
		info.Flags &^= uapi.FlagUnprivilegedDev
	} else if info.Flags&uapi.FlagUnprivilegedDev == 0 {
		return unix.EPERM
	}
	if k.opt.Kernel != Linux6_12 && !saneFlags(info) {
		return unix.EINVAL
	}
	if info.Flags&uapi.FlagUnprivilegedDev != 0 {
		info.Flags &^= uapi.FlagUserRecovery | uapi.FlagUserRecoveryReissue
		forbidden := uapi.FlagUserCopy
		if k.opt.Kernel != Linux6_12 {
			forbidden |= uapi.FlagSupportZeroCopy | uapi.FlagAutoBufReg
		}
		if info.Flags&forbidden != 0 {
			return unix.EINVAL
		}
	}
	if k.opt.Kernel != Linux6_12 && info.Flags&uapi.FlagIntegrity != 0 && info.Flags&uapi.FlagUserCopy == 0 {
		return unix.EINVAL
	}
	if info.DevID != k.cmd.DevID || info.DevID != uapi.AnyDevice && info.DevID >= uapi.MaxDevices {
		return unix.EINVAL
	}
	info.OwnerUID, info.OwnerGID = 0, 0
	if !k.admin {
		info.OwnerUID, info.OwnerGID = UserID, UserID
	}
	return 0
}

// saneFlags are the checks of flags that came after 6.12.
func saneFlags(info *uapi.DevInfo) bool {
	switch info.Flags & recoveryFlags {
	case 0, uapi.FlagUserRecovery, uapi.FlagUserRecovery | uapi.FlagUserRecoveryReissue,
		uapi.FlagUserRecovery | uapi.FlagUserRecoveryFailIO:
	default:
		return false
	}
	if info.Flags&uapi.FlagQuiesce != 0 && info.Flags&uapi.FlagUserRecovery == 0 {
		return false
	}
	size := info.IODescSize
	return info.Flags&uapi.FlagIODescSize == 0 || size >= uapi.IODescSize && size <= 256 && size%8 == 0
}

// negotiate makes of an accepted request what is written back to the caller.
func (k *call) negotiate(info *uapi.DevInfo) {
	info.State, info.ServerPID = uapi.StateDead, -1
	info.Flags &= k.opt.Kernel.Features()
	info.Flags |= uapi.FlagCmdIoctlEncode | uapi.FlagURingCmdCompInTask
	if k.opt.Kernel != Linux6_12 {
		info.Flags |= uapi.FlagPerIODaemon | uapi.FlagBufRegOffDaemon | uapi.FlagSafeStopDev
		if info.Flags&uapi.FlagIODescSize == 0 {
			info.IODescSize = uapi.IODescSize
		}
	}
	if info.Flags&uapi.FlagBatchIO != 0 {
		info.Flags &^= uapi.FlagPerIODaemon
	}
	if info.Flags&(uapi.FlagUserCopy|uapi.FlagSupportZeroCopy|uapi.FlagAutoBufReg|uapi.FlagBatchIO) != 0 {
		info.Flags &^= uapi.FlagNeedGetData
	}
	info.NrHWQueues = min(info.NrHWQueues, uint16(k.opt.CPUs))
	info.MaxIOBufBytes -= info.MaxIOBufBytes % uint32(os.Getpagesize())
}

// number finds the id of a new device. A deleted one that is still referred to
// keeps its own.
func (k *call) number(want uint32) (uint32, unix.Errno) {
	if want != uapi.AnyDevice {
		if k.devices[want] != nil {
			return 0, unix.EEXIST
		}
		return want, 0
	}
	for id := range uint32(uapi.MaxDevices) {
		if k.devices[id] == nil {
			return id, 0
		}
	}
	return 0, unix.ENOSPC
}

func (k *call) unprivileged() int {
	n := 0
	for _, dev := range k.devices {
		if dev.has(uapi.FlagUnprivilegedDev) && !dev.deleted {
			n++
		}
	}
	return n
}
