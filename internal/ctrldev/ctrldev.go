// Package ctrldev is the seam under package ctrl: submit one control command
// to the driver and return its answer. Three things stand behind it: a ring on
// /dev/ublk-control (Open), the same in a helper process that can be given up
// (Detach), and the fake driver of package fake for tests.
package ctrldev

import (
	"context"

	"ublk/internal/uapi"
)

// ControlPath is the control node of the driver.
const ControlPath = "/dev/ublk-control"

// Command is one control command.
type Command struct {
	Op      uint32 // uapi.Cmd…
	DevID   uint32
	QueueID uint16 // uapi.AllQueues unless the command says otherwise
	Data    uint64 // data[0]

	// Path is the char device's path, put in front of the payload; "" sends
	// none. See ublk_drv.c:ublk_ctrl_uring_cmd_permission, v7.3.
	Path string

	// Buf is the payload. It is copied to memory of the driver's own before
	// the command and, for commands that answer, back after it.
	Buf []byte
}

// Driver submits control commands. Submit returns the command's result, which
// is never negative, or the driver's errno as a unix.Errno. When ctx ends first
// the command is cancelled where the driver can be interrupted and given up
// where it cannot; the error is then ctx.Err(). Safe for concurrent use.
type Driver interface {
	Submit(ctx context.Context, c *Command) (int32, error)
	Close() error
}

// Inline reports whether the driver answers op without sleeping and without
// taking a mutex, so that it cannot hang (kernel side: issued in the submitting
// call, not by a worker). GET_DEV_INFO2 resolves a path and still counts.
func Inline(op uint32) bool {
	switch op {
	case uapi.CmdGetFeatures, uapi.CmdGetDevInfo, uapi.CmdGetDevInfo2, uapi.CmdGetQueueAffinity:
		return true
	}
	return false
}
