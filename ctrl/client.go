// Package ctrl is the control plane of ublk: one method for every control
// command of the kernel driver, for the devices of any server.
//
// A Client is safe for concurrent use. Every method takes a context; commands
// that can hang get DefaultTimeout where it has no deadline of its own. The
// package neither logs nor prints, and it never opens a device's char device.
package ctrl

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"

	"ublk/internal/ctrldev"
	"ublk/internal/uapi"
)

// DefaultTimeout bounds every command that can hang when the caller's context
// has no deadline.
const DefaultTimeout = 30 * time.Second

// Client sends control commands to the driver.
type Client struct {
	drv ctrldev.Driver
}

// Open connects to the driver. The error matches ErrNoDriver when the driver is
// not loaded and fs.ErrPermission when the caller may not use it.
func Open() (*Client, error) {
	drv, err := ctrldev.Open()
	if err != nil {
		return nil, openError(err)
	}
	return New(drv), nil
}

// OpenDetached is Open for a program that must be able to exit at any time:
// commands that can hang run in a helper process made by helper, which must
// call ServeHelper. See ctrldev.Detached.
func OpenDetached(helper func() *exec.Cmd) (*Client, error) {
	drv, err := ctrldev.Open()
	if err != nil {
		return nil, openError(err)
	}
	return New(ctrldev.Detach(drv, helper)), nil
}

// New makes a client of a driver that is open already; Close closes it.
func New(drv ctrldev.Driver) *Client { return &Client{drv: drv} }

// Close releases the driver. Commands that were given up stay with the kernel.
func (c *Client) Close() error { return c.drv.Close() }

// Features asks what the kernel offers (GET_FEATURES, 6.5). Older kernels do
// not know the command: then it is BaseFeatures and no error.
func (c *Client) Features(ctx context.Context) (Features, error) {
	var buf [8]byte
	_, err := c.drv.Submit(ctx, &ctrldev.Command{Op: uapi.CmdGetFeatures, QueueID: uapi.AllQueues, Buf: buf[:]})
	switch err {
	case nil:
		return Features(nativeUint64(buf[:])), nil
	case unix.EOPNOTSUPP, unix.EINVAL, unix.ENODEV: // of the driver's own; ENODEV: it looked for device 0
		return BaseFeatures, nil
	}
	return 0, newError(uapi.CmdGetFeatures, -1, err)
}

// AddRequest describes a device to be made.
type AddRequest struct {
	ID          int // -1: the driver picks
	Queues      int // 1..4096; the driver clamps to the number of possible CPUs
	Depth       int // 1..4096, tags a queue
	MaxIOBytes  uint32
	Flags       uint64 // the driver drops what it does not know: compare with the answer
	ServerFlags uint64
}

// check refuses what does not fit the fields of the command: cut off, it would
// be another request.
func (r *AddRequest) check() error {
	switch {
	case r.ID < -1 || r.ID >= uapi.MaxDevices:
		return &ParamError{"id", fmt.Sprintf("0 to %d", uapi.MaxDevices-1)}
	case r.Queues < 1 || r.Queues > uapi.MaxQueues:
		return &ParamError{"queues", fmt.Sprintf("1 to %d", uapi.MaxQueues)}
	case r.Depth < 1 || r.Depth > uapi.MaxQueueDepth:
		return &ParamError{"depth", fmt.Sprintf("1 to %d", uapi.MaxQueueDepth)}
	}
	return nil
}

// Add makes a device (ADD_DEV). It returns what the driver made of the request:
// flags may be missing, queues fewer. Check Features first; a kernel refuses
// none of the flags that it does not know.
func (c *Client) Add(ctx context.Context, r AddRequest) (DevInfo, error) {
	if err := r.check(); err != nil {
		return DevInfo{}, newError(uapi.CmdAddDev, r.ID, err)
	}
	w := uapi.DevInfo{
		NrHWQueues:    uint16(r.Queues),
		QueueDepth:    uint16(r.Depth),
		MaxIOBufBytes: r.MaxIOBytes,
		DevID:         uint32(r.ID),
		Flags:         r.Flags,
		ServerFlags:   r.ServerFlags,
	}
	cmd := ctrldev.Command{Op: uapi.CmdAddDev, DevID: uint32(r.ID), QueueID: uapi.AllQueues, Buf: uapi.Bytes(&w)}
	if err := c.submit(ctx, &cmd, r.ID); err != nil {
		return DevInfo{}, err
	}
	return fromWire(&w), nil
}

// Info asks for a device's description (GET_DEV_INFO2, and GET_DEV_INFO where
// that is not known or the char device's node is gone). It cannot hang.
func (c *Client) Info(ctx context.Context, id int) (DevInfo, error) {
	if id < 0 || id >= uapi.MaxDevices { // cut to 32 bits it might be another's
		return DevInfo{}, newError(uapi.CmdGetDevInfo2, id, unix.ENODEV)
	}
	var w uapi.DevInfo
	cmd := ctrldev.Command{Op: uapi.CmdGetDevInfo2, DevID: uint32(id), QueueID: uapi.AllQueues, Path: CharPath(id), Buf: uapi.Bytes(&w)}
	_, err := c.drv.Submit(ctx, &cmd)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, fs.ErrNotExist) {
		retry := cmd
		retry.Op, retry.Path = uapi.CmdGetDevInfo, ""
		// EINVAL: an unprivileged device, which cannot be asked without its node.
		if _, rerr := c.drv.Submit(ctx, &retry); rerr != unix.EINVAL {
			cmd, err = retry, rerr
		}
	}
	if err != nil {
		return DevInfo{}, newError(cmd.Op, id, err)
	}
	return fromWire(&w), nil
}

// Affinity lists the possible CPUs that are mapped to queue
// (GET_QUEUE_AFFINITY). It cannot hang.
func (c *Client) Affinity(ctx context.Context, id, queue int) ([]int, error) {
	buf := make([]byte, 1024) // 8192 CPUs
	cmd := ctrldev.Command{Op: uapi.CmdGetQueueAffinity, DevID: uint32(id), QueueID: uapi.AllQueues, Data: uint64(queue), Buf: buf}
	if err := c.device(ctx, &cmd, id); err != nil {
		return nil, err
	}
	var cpus []int
	for cpu := range 8 * len(buf) {
		if word := nativeUint64(buf[cpu/64*8:]); word>>(cpu%64)&1 != 0 {
			cpus = append(cpus, cpu)
		}
	}
	return cpus, nil
}

// Start publishes the block device (START_DEV). It returns when every tag of
// every queue has been fetched by process pid, which must be the one that
// opened the char device; never call it from a thread that must serve I/O.
func (c *Client) Start(ctx context.Context, id, pid int) error {
	return c.simple(ctx, uapi.CmdStartDev, id, uint64(pid))
}

// Stop removes the block device, whoever has it open (STOP_DEV). It waits for
// I/O in flight: with a frozen server until that is killed.
func (c *Client) Stop(ctx context.Context, id int) error {
	return c.simple(ctx, uapi.CmdStopDev, id, 0)
}

// TryStop is Stop for a device that nobody has open (TRY_STOP_DEV, 7.0); the
// error matches ErrBusy otherwise. Afterwards a device that is started again
// refuses openers without CAP_SYS_ADMIN for the rest of its life.
func (c *Client) TryStop(ctx context.Context, id int) error {
	return c.simple(ctx, uapi.CmdTryStopDev, id, 0)
}

// DelAsync is Del without the last wait (DEL_DEV_ASYNC, 6.9). Not for
// unprivileged devices: the driver answers EINVAL.
func (c *Client) DelAsync(ctx context.Context, id int) error {
	return c.simple(ctx, uapi.CmdDelDevAsync, id, 0)
}

// StartRecovery begins recovery (START_USER_RECOVERY). The error matches
// ErrBusy while the dead server's char device is still being released.
func (c *Client) StartRecovery(ctx context.Context, id int) error {
	return c.simple(ctx, uapi.CmdStartUserRecovery, id, 0)
}

// EndRecovery makes a device LIVE again (END_USER_RECOVERY) once process pid,
// the opener of the char device, has fetched every tag.
func (c *Client) EndRecovery(ctx context.Context, id, pid int) error {
	return c.simple(ctx, uapi.CmdEndUserRecovery, id, uint64(pid))
}

// UpdateSize sets the capacity in sectors of 512 bytes (UPDATE_SIZE, 6.16). The
// driver checks nothing at all: any number, any alignment.
func (c *Client) UpdateSize(ctx context.Context, id int, sectors uint64) error {
	return c.simple(ctx, uapi.CmdUpdateSize, id, sectors)
}

// Quiesce asks the server to leave (QUIESCE_DEV, 6.16). Success does not mean
// that it has left, nor even that it was told: poll Info, and send it again.
// The driver counts timeout in milliseconds; 0 is for ever.
func (c *Client) Quiesce(ctx context.Context, id int, timeout time.Duration) error {
	ms := (max(timeout, 0) + time.Millisecond - 1) / time.Millisecond
	return c.simple(ctx, uapi.CmdQuiesceDev, id, uint64(ms))
}

// RegBuf registers memory of the calling process for zero copy (REG_BUF, 7.1)
// and returns its index. addr and length are multiples of the page size.
func (c *Client) RegBuf(ctx context.Context, id int, addr uintptr, length uint64, readOnly bool) (int, error) {
	w := uapi.BufReg{Addr: uint64(addr), Len: length}
	if readOnly {
		w.Flags = 1
	}
	cmd := ctrldev.Command{Op: uapi.CmdRegBuf, DevID: uint32(id), QueueID: uapi.AllQueues, Buf: uapi.Bytes(&w)}
	return c.deviceResult(ctx, &cmd, id)
}

// UnregBuf takes back what RegBuf registered (UNREG_BUF, 7.1).
func (c *Client) UnregBuf(ctx context.Context, id, index int) error {
	return c.simple(ctx, uapi.CmdUnregBuf, id, uint64(index))
}

func (c *Client) simple(ctx context.Context, op uint32, id int, data uint64) error {
	return c.device(ctx, &ctrldev.Command{Op: op, DevID: uint32(id), QueueID: uapi.AllQueues, Data: data}, id)
}

func (c *Client) device(ctx context.Context, cmd *ctrldev.Command, id int) error {
	_, err := c.deviceResult(ctx, cmd, id)
	return err
}

// deviceResult sends a command to one device. Whether the payload must carry
// the char device's path depends on the device, so ask for that first.
func (c *Client) deviceResult(ctx context.Context, cmd *ctrldev.Command, id int) (int, error) {
	info, err := c.Info(ctx, id)
	if err != nil {
		var e *Error
		if errors.As(err, &e) {
			e.Op = commandName(cmd.Op)
		}
		return 0, err
	}
	if info.Unprivileged() {
		cmd.Path = CharPath(id)
	}
	return c.submitResult(ctx, cmd, id)
}

func (c *Client) submit(ctx context.Context, cmd *ctrldev.Command, id int) error {
	_, err := c.submitResult(ctx, cmd, id)
	return err
}

func (c *Client) submitResult(ctx context.Context, cmd *ctrldev.Command, id int) (int, error) {
	if _, ok := ctx.Deadline(); !ok && !ctrldev.Inline(cmd.Op) {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultTimeout)
		defer cancel()
	}
	res, err := c.drv.Submit(ctx, cmd)
	if err != nil && c.missing(ctx, cmd, err) {
		err = &UnsupportedError{Feature: commandName(cmd.Op), Since: commandSince[cmd.Op]}
	}
	return int(res), newError(cmd.Op, id, err)
}

// missing tells a command that the kernel does not have from one that it
// refuses. The driver answers EOPNOTSUPP to both, and EINVAL to unknown ones on
// unprivileged devices.
func (c *Client) missing(ctx context.Context, cmd *ctrldev.Command, err error) bool {
	if commandSince[cmd.Op] == "" {
		return false
	}
	if !errors.Is(err, unix.EOPNOTSUPP) && !(errors.Is(err, unix.EINVAL) && cmd.Path != "") {
		return false
	}
	announced := map[uint32]uint64{
		uapi.CmdUpdateSize: uapi.FlagUpdateSize,
		uapi.CmdQuiesceDev: uapi.FlagQuiesce,
		uapi.CmdTryStopDev: uapi.FlagSafeStopDev,
		uapi.CmdRegBuf:     uapi.FlagShmemZC,
		uapi.CmdUnregBuf:   uapi.FlagShmemZC,
	}
	flag, ok := announced[cmd.Op]
	if !ok {
		return errors.Is(err, unix.EOPNOTSUPP)
	}
	have, ferr := c.Features(ctx)
	return ferr == nil && !have.Has(flag)
}

// ServeHelper is the helper process of OpenDetached: it carries out commands
// from its standard input until that ends.
func ServeHelper() error { return serveHelper() }

func (d *DevInfo) String() string {
	return fmt.Sprintf("device %d %s queues %d depth %d flags %#x", d.ID, d.State, d.Queues, d.Depth, uint64(d.Flags))
}
