package ctrl

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"ublk/internal/uapi"
)

// Sentinels for errors.Is where the errno alone would say it badly.
var (
	// ErrNoDevice: there is no device of that id (ENODEV).
	ErrNoDevice = errors.New("no such device")
	// ErrNotStarted: the device is there, its block device is not (ENODEV).
	ErrNotStarted = errors.New("device is not started")
	// ErrBusy: the device, or its char device, is in use (EBUSY).
	ErrBusy = errors.New("device is busy")
	// ErrNoDriver: the control node is missing, the driver is not loaded.
	ErrNoDriver = errors.New("the ublk driver is not loaded")
)

// Error is a control command that the driver refused. It unwraps to the errno
// and so answers errors.Is for fs.ErrExist, fs.ErrPermission and the like; the
// sentinels of this package match as well.
type Error struct {
	Op  string // kernel name of the command, e.g. "ADD_DEV"
	Dev int    // device id; -1 where the command has none
	Err error
}

func newError(op uint32, dev int, err error) error {
	if err == nil {
		return nil
	}
	name := commandName(op)
	return &Error{Op: name, Dev: dev, Err: meaning(name, err)}
}

func (e *Error) Error() string {
	switch {
	case e.Dev < 0:
		return fmt.Sprintf("%s: %v", e.Op, e.Err)
	case errors.Is(e, ErrNoDevice): // whatever was asked
		return fmt.Sprintf("device %d: %v", e.Dev, ErrNoDevice)
	}
	return fmt.Sprintf("device %d: %s: %v", e.Dev, e.Op, e.Err)
}

// Unwrap returns the errno, or the context's error after a deadline.
func (e *Error) Unwrap() error { return e.Err }

// Is matches the sentinels, also where Err is nothing but an errno.
func (e *Error) Is(target error) bool {
	if target == ErrBusy {
		return errors.Is(e.Err, unix.EBUSY)
	}
	return e.Err == error(unix.ENODEV) && errors.Is(meaning(e.Op, e.Err), target)
}

// meaning tells the driver's two meanings of ENODEV apart: three commands give
// it, too, for a device without a block device. That there is a device has been
// found out just before they are sent.
func meaning(op string, err error) error {
	if err != unix.ENODEV {
		return err
	}
	switch op {
	case "TRY_STOP_DEV", "UPDATE_SIZE", "QUIESCE_DEV":
		return &errnoError{ErrNotStarted, unix.ENODEV}
	}
	return &errnoError{ErrNoDevice, unix.ENODEV}
}

// errnoError says what an errno means and matches both.
type errnoError struct {
	error
	errno unix.Errno
}

func (e *errnoError) Unwrap() []error { return []error{e.error, e.errno} }

// Timeout reports a command that did not return before its deadline.
func (e *Error) Timeout() bool { return errors.Is(e.Err, context.DeadlineExceeded) }

// UnsupportedError is a feature or command that this kernel does not have. It
// matches errors.ErrUnsupported.
type UnsupportedError struct {
	Feature string // header name, e.g. "UBLK_F_BATCH_IO"
	Since   string // first release of Linux that has it; empty if unknown
}

func (e *UnsupportedError) Error() string {
	if e.Since == "" {
		return fmt.Sprintf("this kernel has no %s", e.Feature)
	}
	return fmt.Sprintf("this kernel has no %s (Linux %s or newer)", e.Feature, e.Since)
}

// Is matches errors.ErrUnsupported.
func (e *UnsupportedError) Is(target error) bool { return target == errors.ErrUnsupported }

// openError explains why the control node could not be opened.
func openError(err error) error {
	// A node that outlived the driver gives ENODEV or ENXIO.
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
		return &driverError{err}
	}
	return err
}

// driverError keeps the text of open(2) and matches ErrNoDriver.
type driverError struct{ error }

func (e *driverError) Unwrap() error        { return e.error }
func (e *driverError) Is(target error) bool { return target == ErrNoDriver }

var commandNames = map[uint32]string{
	uapi.CmdGetQueueAffinity:  "GET_QUEUE_AFFINITY",
	uapi.CmdGetDevInfo:        "GET_DEV_INFO",
	uapi.CmdAddDev:            "ADD_DEV",
	uapi.CmdDelDev:            "DEL_DEV",
	uapi.CmdStartDev:          "START_DEV",
	uapi.CmdStopDev:           "STOP_DEV",
	uapi.CmdSetParams:         "SET_PARAMS",
	uapi.CmdGetParams:         "GET_PARAMS",
	uapi.CmdStartUserRecovery: "START_USER_RECOVERY",
	uapi.CmdEndUserRecovery:   "END_USER_RECOVERY",
	uapi.CmdGetDevInfo2:       "GET_DEV_INFO2",
	uapi.CmdGetFeatures:       "GET_FEATURES",
	uapi.CmdDelDevAsync:       "DEL_DEV_ASYNC",
	uapi.CmdUpdateSize:        "UPDATE_SIZE",
	uapi.CmdQuiesceDev:        "QUIESCE_DEV",
	uapi.CmdTryStopDev:        "TRY_STOP_DEV",
	uapi.CmdRegBuf:            "REG_BUF",
	uapi.CmdUnregBuf:          "UNREG_BUF",
}

// commandSince is the release of commands that came later than the driver and
// that no feature bit announces in time.
var commandSince = map[uint32]string{
	uapi.CmdGetFeatures: "6.5",
	uapi.CmdDelDevAsync: "6.9",
	uapi.CmdUpdateSize:  "6.16",
	uapi.CmdQuiesceDev:  "6.16",
	uapi.CmdTryStopDev:  "7.0",
	uapi.CmdRegBuf:      "7.1",
	uapi.CmdUnregBuf:    "7.1",
}

func commandName(op uint32) string {
	if n, ok := commandNames[op]; ok {
		return n
	}
	return fmt.Sprintf("command %#x", op)
}
