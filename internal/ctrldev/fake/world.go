package fake

import (
	"golang.org/x/sys/unix"

	"ublk/internal/uapi"
)

// UserID is the uid and gid of a caller without CAP_SYS_ADMIN.
const UserID = 1000

// Chown hands a device's node to callers without CAP_SYS_ADMIN, as an udev rule
// does: to read only, or to read and write. New nodes belong to root.
func (d *Driver) Chown(id int, write bool) error {
	return d.with(id, func(dev *device) error {
		dev.access = accessRead
		if write {
			dev.access |= accessWrite
		}
		return nil
	})
}

// OpenChar opens /dev/ublkcN as process pid: ENOENT without the node, EBUSY
// while it is open.
func (d *Driver) OpenChar(id, pid int) error {
	err := d.with(id, func(dev *device) error {
		if dev.deleted {
			return unix.ENOENT
		}
		if dev.server != nil {
			return unix.EBUSY
		}
		dev.server = &server{pid: pid, fetched: make([][]bool, dev.info.NrHWQueues)}
		for q := range dev.server.fetched {
			dev.server.fetched[q] = make([]bool, dev.info.QueueDepth)
		}
		delete(d.exited, pid)
		return nil
	})
	if err == unix.ENODEV {
		return unix.ENOENT
	}
	return err
}

// Fetch is FETCH_REQ for tags of one queue. It stops at the first that fails.
func (d *Driver) Fetch(id, queue int, tags ...int) error {
	return d.serving(id, func(dev *device) error {
		s := dev.server
		for _, tag := range tags {
			switch {
			case queue < 0 || queue >= len(s.fetched) || tag < 0 || tag >= len(s.fetched[queue]):
				return unix.EINVAL
			case d.opt.Kernel == Linux6_12 && dev.served != nil && dev.served != s:
				return unix.EINVAL // the queues still belong to the threads of the last server
			case s.stopped && d.opt.Kernel != Linux6_12:
				return unix.ENODEV
			case dev.ready():
				return unix.EBUSY
			case s.fetched[queue][tag]:
				return unix.EINVAL
			}
			s.fetched[queue][tag] = true
			dev.served = s
			s.ready++
			dev.complete = dev.complete || dev.ready()
		}
		return nil
	})
}

// FetchAll is Fetch for every tag of every queue.
func (d *Driver) FetchAll(id int) error {
	info, ok := d.Device(id)
	if !ok {
		return unix.ENODEV
	}
	tags := make([]int, info.QueueDepth)
	for i := range tags {
		tags[i] = i
	}
	for q := range int(info.NrHWQueues) {
		if err := d.Fetch(id, q, tags...); err != nil {
			return err
		}
	}
	return nil
}

// Hold says how many requests the server has and does not commit. STOP_DEV and
// its like wait until there are none.
func (d *Driver) Hold(id, requests int) error {
	return d.serving(id, func(dev *device) error {
		if requests < 0 || requests > dev.tags() {
			return unix.EINVAL
		}
		dev.server.held = requests
		return nil
	})
}

// Told reports whether the server has seen -ENODEV on a command that it had
// fetched with: it has been stopped or asked to leave.
func (d *Driver) Told(id int) bool {
	told := false
	_ = d.serving(id, func(dev *device) error { told = dev.server.told; return nil })
	return told
}

// CloseChar closes the char device; the process lives.
func (d *Driver) CloseChar(id int) error {
	return d.serving(id, func(dev *device) error {
		dev.server = nil
		// 6.12 forgets only in START_USER_RECOVERY that all tags were fetched.
		dev.complete = dev.complete && d.opt.Kernel == Linux6_12
		// A command that holds the mutex is removing the disk already.
		if dev.live() && !dev.locked {
			dev.abandon()
		}
		return nil
	})
}

// abandon is what becomes of a device with a disk and without a server.
func (dev *device) abandon() {
	switch {
	case !dev.has(uapi.FlagUserRecovery):
		dev.remove()
	case dev.has(uapi.FlagUserRecoveryFailIO):
		dev.info.State = uapi.StateFailIO
	default:
		dev.info.State = uapi.StateQuiesced
	}
}

// Exit makes a process go away that still holds its char device, as one does
// whose requests are in flight elsewhere. CloseChar ends that.
func (d *Driver) Exit(pid int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.exited[pid] = true
	d.notify()
}

// KillServer ends the server's process and so closes the char device.
func (d *Driver) KillServer(id int) error {
	err := d.serving(id, func(dev *device) error { d.exited[dev.server.pid] = true; return nil })
	if err != nil {
		return err
	}
	return d.CloseChar(id)
}

// OpenBlock opens /dev/ublkbN: ENOENT when there is none, ENXIO when an earlier
// TRY_STOP_DEV has shut out callers without CAP_SYS_ADMIN.
func (d *Driver) OpenBlock(id int) error {
	err := d.with(id, func(dev *device) error {
		switch {
		case !dev.live():
			return unix.ENOENT
		case dev.blockOpen && !d.admin:
			return unix.ENXIO
		}
		dev.disk.openers++
		return nil
	})
	if err == unix.ENODEV {
		return unix.ENOENT
	}
	return err
}

// CloseBlock closes the block device once, also one that was removed since.
func (d *Driver) CloseBlock(id int) error {
	return d.with(id, func(dev *device) error {
		if dev.disk == nil || dev.disk.openers == 0 {
			return unix.EBADF
		}
		dev.disk.openers--
		return nil
	})
}

// Device is the driver's own record of a device, the pid as it was stored.
func (d *Driver) Device(id int) (uapi.DevInfo, bool) {
	var info uapi.DevInfo
	err := d.with(id, func(dev *device) error { info = dev.info; return nil })
	return info, err == nil
}

// Stored is the parameter block of a device.
func (d *Driver) Stored(id int) (uapi.Params, bool) {
	var p uapi.Params
	err := d.with(id, func(dev *device) error { p = dev.params; return nil })
	return p, err == nil
}

// with runs fn on a device under the lock and wakes who waits for its changes.
func (d *Driver) with(id int, fn func(*device) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	dev := d.devices[uint32(id)]
	if dev == nil {
		return unix.ENODEV
	}
	defer d.release(dev)
	return fn(dev)
}

// serving is with for a device whose char device is open: else EBADF.
func (d *Driver) serving(id int, fn func(*device) error) error {
	return d.with(id, func(dev *device) error {
		if dev.server == nil {
			return unix.EBADF
		}
		return fn(dev)
	})
}
