package fake

import (
	"golang.org/x/sys/unix"

	"ublk/internal/uapi"
)

func (k *call) startDev(dev *device) unix.Errno {
	pid := int32(k.cmd.Data)
	if pid <= 0 || dev.params.Types&uapi.ParamBasic == 0 {
		return unix.EINVAL
	}
	if errno := k.sleep(true, func() bool { return dev.complete }); errno != 0 {
		return errno
	}
	// 6.12 takes any pid, and does not look whether a server is there.
	strict := k.opt.Kernel != Linux6_12
	if strict && !dev.servedBy(pid) {
		return unix.EINVAL
	}
	k.lock(dev)
	defer k.unlock(dev)
	switch {
	case strict && !dev.ready():
		return unix.EINVAL
	case dev.info.State == uapi.StateLive || dev.disk != nil:
		return unix.EEXIST
	case strict && dev.server.stopped:
		return unix.EBUSY
	}
	dev.disk = &disk{}
	dev.info.State, dev.info.ServerPID = uapi.StateLive, pid
	return 0
}

func (dev *device) servedBy(pid int32) bool {
	return dev.server != nil && dev.server.pid == int(pid)
}

// stopDev is ublk_drv.c:ublk_stop_dev.
func (k *call) stopDev(dev *device) {
	k.lock(dev)
	if dev.info.State != uapi.StateDead {
		// Disk removal waits for what the server holds; only its death helps.
		k.sleep(false, func() bool { return dev.server == nil || dev.server.held == 0 })
		dev.remove()
	}
	k.unlock(dev)
	if dev.server != nil {
		dev.server.stopped, dev.server.told = true, true
	}
	k.release(dev)
}

// remove takes the disk away, from its openers too.
func (dev *device) remove() {
	dev.info.State, dev.info.ServerPID = uapi.StateDead, -1
	if dev.disk != nil {
		dev.disk.gone = true
	}
}

func (k *call) tryStopDev(dev *device) unix.Errno {
	if !dev.live() {
		return unix.ENODEV
	}
	if dev.disk.openers > 0 {
		return unix.EBUSY
	}
	dev.blockOpen = true
	k.stopDev(dev)
	return 0
}

// delDev stops the device and removes its nodes under the lock over all
// devices. With wait it then sleeps until the id is free.
func (k *call) delDev(dev *device, wait bool) unix.Errno {
	if errno := k.sleep(true, func() bool { return !k.adding }); errno != 0 {
		return errno
	}
	k.adding = true
	if !dev.deleted {
		k.stopDev(dev)
		dev.deleted = true
	}
	k.adding = false
	if !wait {
		k.notify()
		return 0
	}
	k.put(dev) // the driver gives its reference up before it waits
	errno := k.sleep(true, func() bool { return k.devices[dev.info.DevID] != dev })
	dev.refs++
	return errno
}

func (k *call) startRecovery(dev *device) unix.Errno {
	k.lock(dev)
	defer k.unlock(dev)
	switch {
	case !dev.has(uapi.FlagUserRecovery):
		return unix.EINVAL
	case k.opt.Kernel == Linux6_12 && !dev.complete: // never had all queues ready
		return unix.EINVAL
	case dev.server != nil || !dev.recoverable():
		return unix.EBUSY
	}
	dev.complete, dev.served = false, nil
	return 0
}

func (k *call) endRecovery(dev *device) unix.Errno {
	pid := int32(k.cmd.Data)
	if errno := k.sleep(true, func() bool { return dev.complete }); errno != 0 {
		return errno
	}
	if k.opt.Kernel != Linux6_12 && !dev.servedBy(pid) {
		return unix.EINVAL
	}
	k.lock(dev)
	defer k.unlock(dev)
	switch {
	case !dev.has(uapi.FlagUserRecovery):
		return unix.EINVAL
	case !dev.recoverable():
		return unix.EBUSY
	}
	dev.info.State, dev.info.ServerPID = uapi.StateLive, pid
	return 0
}

func (dev *device) recoverable() bool {
	return dev.info.State == uapi.StateQuiesced || dev.info.State == uapi.StateFailIO
}

// updateSize checks nothing, as the driver does.
func (k *call) updateSize(dev *device) unix.Errno {
	k.lock(dev)
	defer k.unlock(dev)
	if !dev.live() {
		return unix.ENODEV
	}
	dev.params.Basic.DevSectors = k.cmd.Data
	return 0
}

// quiesceDev never waits, whatever the timeout: the driver counts no tag as
// busy. A server that holds every tag is not told, because no command is left
// that could tell it.
func (k *call) quiesceDev(dev *device) unix.Errno {
	if !dev.has(uapi.FlagQuiesce) {
		return unix.EOPNOTSUPP
	}
	k.lock(dev)
	defer k.unlock(dev)
	switch {
	case !dev.live() || dev.info.State == uapi.StateDead:
		return unix.ENODEV
	case dev.info.State != uapi.StateLive:
		return 0
	}
	if s := dev.server; s != nil && s.held < dev.tags() {
		s.told = true
	}
	return 0
}

func (k *call) regBuf(dev *device) (int32, unix.Errno) {
	if !dev.has(uapi.FlagShmemZC) {
		return 0, unix.EOPNOTSUPP
	}
	var reg uapi.BufReg
	wire := uapi.Bytes(&reg)
	copy(wire, k.arg)
	const page, most = 4096, 1 << 32
	reserved := wire[20] | wire[21] | wire[22] | wire[23]
	if reg.Flags&^1 != 0 || reserved != 0 || reg.Len == 0 || reg.Len > most || reg.Len%page != 0 || reg.Addr%page != 0 {
		return 0, unix.EINVAL
	}
	if reg.Addr == 0 { // nothing is ever mapped there
		return 0, unix.EFAULT
	}
	k.lock(dev)
	defer k.unlock(dev)
	for index := int32(0); index < 1<<16; index++ {
		if !dev.bufs[index] {
			dev.bufs[index] = true
			return index, 0
		}
	}
	return 0, unix.ENOSPC
}

func (k *call) unregBuf(dev *device) unix.Errno {
	index := int32(k.cmd.Data)
	switch {
	case !dev.has(uapi.FlagShmemZC):
		return unix.EOPNOTSUPP
	case index < 0 || index >= 1<<16:
		return unix.EINVAL
	}
	k.lock(dev)
	defer k.unlock(dev)
	if !dev.bufs[index] {
		return unix.ENOENT
	}
	delete(dev.bufs, index)
	return 0
}
