package fake

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"ublk/internal/ctrldev"
	"ublk/internal/uapi"
)

// call is one command on its way through the driver.
type call struct {
	*Driver
	ctx   context.Context
	cmd   ctrldev.Command
	admin bool   // capabilities count as they were at submission
	mem   []byte // what the command's addr points at: path with NUL, payload
	arg   []byte // the same without the path, once that was checked

	abandoned bool
	stuck     chan struct{} // closed when the caller need not wait for done
	done      chan struct{}
	res       int32
	errno     unix.Errno
}

func (d *Driver) begin(ctx context.Context, c *ctrldev.Command) *call {
	d.mu.Lock()
	defer d.mu.Unlock()
	k := &call{Driver: d, ctx: ctx, cmd: *c, admin: d.admin, stuck: make(chan struct{}), done: make(chan struct{})}
	k.cmd.Buf = slices.Clone(c.Buf)
	if c.Path != "" {
		k.mem = append([]byte(c.Path), 0)
	}
	k.mem = append(k.mem, c.Buf...)
	k.arg = k.mem
	d.history = append(d.history, k.cmd)
	d.inside++
	d.report()
	return k
}

func (k *call) run() {
	k.mu.Lock()
	defer k.mu.Unlock()
	defer close(k.done)
	k.res, k.errno = k.execute()
	k.inside--
	k.notify()
}

// sleep waits until a condition holds. k.mu is held, except while sleeping. A
// sleep that can be interrupted ends with EINTR when the context does; another
// goes on without the caller.
func (k *call) sleep(interruptible bool, until func() bool) unix.Errno {
	for !until() {
		if k.ctx.Err() != nil {
			if interruptible {
				return unix.EINTR
			}
			if !k.abandoned {
				k.abandoned = true
				close(k.stuck)
			}
		}
		ended := k.ctx.Done()
		if k.abandoned {
			ended = nil
		}
		changed := k.changed
		k.asleep++
		k.report()
		k.mu.Unlock()
		select {
		case <-changed:
		case <-ended:
		}
		k.mu.Lock()
		if changed == k.changed {
			k.asleep--
		}
	}
	return 0
}

// execute is ublk_drv.c:ublk_ctrl_uring_cmd. The driver looks at type and
// number of a command only, so the legacy codes work as well.
func (k *call) execute() (int32, unix.Errno) {
	if errno := k.disturb(); errno != 0 {
		return 0, errno
	}
	kind, nr := k.cmd.Op>>8&0xff, k.cmd.Op&0xff
	if kind != 'u' && kind != 0 {
		return 0, unix.EOPNOTSUPP
	}
	if k.cmd.Op == uapi.CmdGetFeatures {
		return 0, k.getFeatures()
	}
	if nr == uapi.CmdAddDev&0xff {
		return 0, k.addDev()
	}
	dev := k.devices[k.cmd.DevID]
	if dev == nil {
		return 0, unix.ENODEV
	}
	dev.refs++
	defer k.put(dev)
	if errno := k.permit(dev, nr); errno != 0 {
		return 0, errno
	}
	if !k.has(nr) {
		return 0, unix.EOPNOTSUPP
	}
	return k.dispatch(dev, nr)
}

// disturb is what the test has asked for: Freeze and Fail.
func (k *call) disturb() unix.Errno {
	op := k.cmd.Op
	if interruptible, ok := k.frozen[op]; ok {
		thawed := func() bool { _, ok := k.frozen[op]; return !ok }
		if errno := k.sleep(interruptible, thawed); errno != 0 {
			return errno
		}
	}
	if queue := k.faults[op]; len(queue) > 0 {
		k.faults[op] = queue[1:]
		return queue[0]
	}
	return 0
}

func (k *call) dispatch(dev *device, nr uint32) (int32, unix.Errno) {
	switch nr {
	case uapi.CmdGetDevInfo & 0xff, uapi.CmdGetDevInfo2 & 0xff:
		return 0, k.getDevInfo(dev)
	case uapi.CmdGetQueueAffinity & 0xff:
		return 0, k.getAffinity(dev)
	case uapi.CmdGetParams & 0xff:
		return 0, k.getParams(dev)
	case uapi.CmdSetParams & 0xff:
		return 0, k.setParams(dev)
	case uapi.CmdStartDev & 0xff:
		return 0, k.startDev(dev)
	case uapi.CmdStopDev & 0xff:
		k.stopDev(dev)
		return 0, 0
	case uapi.CmdTryStopDev & 0xff:
		return 0, k.tryStopDev(dev)
	case uapi.CmdDelDev & 0xff:
		return 0, k.delDev(dev, true)
	case uapi.CmdDelDevAsync & 0xff:
		return 0, k.delDev(dev, false)
	case uapi.CmdStartUserRecovery & 0xff:
		return 0, k.startRecovery(dev)
	case uapi.CmdEndUserRecovery & 0xff:
		return 0, k.endRecovery(dev)
	case uapi.CmdUpdateSize & 0xff:
		return 0, k.updateSize(dev)
	case uapi.CmdQuiesceDev & 0xff:
		return 0, k.quiesceDev(dev)
	case uapi.CmdRegBuf & 0xff:
		return k.regBuf(dev)
	case uapi.CmdUnregBuf & 0xff:
		return 0, k.unregBuf(dev)
	}
	return 0, unix.EOPNOTSUPP
}

// permit is ublk_drv.c:ublk_ctrl_uring_cmd_permission: it checks the caller and,
// where there must be one, the path, which it takes off the payload.
func (k *call) permit(dev *device, nr uint32) unix.Errno {
	if dev.info.Flags&uapi.FlagUnprivilegedDev == 0 {
		if !k.admin {
			return unix.EPERM
		}
		if nr != uapi.CmdGetDevInfo2&0xff {
			return 0
		}
	}
	if k.cmd.Path == "" || len(k.cmd.Path) >= 4096 {
		return unix.EINVAL
	}
	need := accessRead | accessWrite
	switch nr {
	case uapi.CmdGetDevInfo & 0xff, uapi.CmdGetDevInfo2 & 0xff, uapi.CmdGetQueueAffinity & 0xff,
		uapi.CmdGetParams & 0xff, uapi.CmdGetFeatures & 0xff:
		need = accessRead
	case uapi.CmdDelDevAsync & 0xff: // missing from the driver's table
		return unix.EINVAL
	default:
		if !k.has(nr) {
			return unix.EINVAL
		}
	}
	if errno := k.resolve(dev, need); errno != 0 {
		return errno
	}
	k.arg = k.mem[len(k.cmd.Path)+1:]
	return 0
}

// resolve is ublk_drv.c:ublk_char_dev_permission. There are the nodes of the
// devices, the control node and /dev/null; no other file exists.
func (k *call) resolve(dev *device, need access) unix.Errno {
	path, _, _ := strings.Cut(k.cmd.Path, "\x00")
	if path == "/dev/null" || path == ctrldev.ControlPath {
		return unix.EPERM
	}
	for id, other := range k.devices {
		if other.deleted || path != fmt.Sprintf("/dev/ublkc%d", id) {
			continue
		}
		switch {
		case other != dev:
			return unix.EPERM
		case !k.admin && dev.access&need != need:
			return unix.EACCES
		}
		return 0
	}
	return unix.ENOENT
}
