package ctrl

import (
	"fmt"

	"ublk/internal/uapi"
)

// State is the state of a device as the driver reports it.
type State uint16

// The states of ublk_cmd.h. A device that was added and never started, one
// that was stopped, and one that lost its server without recovery are all DEAD.
const (
	Dead     = State(uapi.StateDead)     // no block device
	Live     = State(uapi.StateLive)     // block device and server
	Quiesced = State(uapi.StateQuiesced) // block device without server, new I/O waits
	FailIO   = State(uapi.StateFailIO)   // block device without server, new I/O fails
)

var stateNames = [...]string{"DEAD", "LIVE", "QUIESCED", "FAIL_IO"}

func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("UNKNOWN(%d)", uint16(s))
}

// Recovery is what happens to a device when its server is lost.
type Recovery int

const (
	// RecoveryNone removes the disk and fails all I/O.
	RecoveryNone Recovery = iota
	// RecoveryRequeue keeps the disk; I/O that the server held fails, all other waits.
	RecoveryRequeue
	// RecoveryReissue keeps the disk; all I/O waits, and what the server held
	// is delivered again. A write may so be executed twice.
	RecoveryReissue
	// RecoveryFail keeps the disk; all I/O fails until a new server is there.
	RecoveryFail
)

var recoveryNames = [...]string{"none", "requeue", "reissue", "fail"}

func (r Recovery) String() string { return recoveryNames[r] }

// MarshalText implements encoding.TextMarshaler.
func (r Recovery) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText accepts the names none, requeue, reissue and fail.
func (r *Recovery) UnmarshalText(b []byte) error {
	for i, n := range recoveryNames {
		if n == string(b) {
			*r = Recovery(i)
			return nil
		}
	}
	return fmt.Errorf("recovery mode %q: one of requeue, reissue, fail", b)
}

// Flags are the device flags that ask for r. FlagQuiesce is not among them: it
// is added where the kernel has it.
func (r Recovery) Flags() uint64 {
	switch r {
	case RecoveryRequeue:
		return uapi.FlagUserRecovery
	case RecoveryReissue:
		return uapi.FlagUserRecovery | uapi.FlagUserRecoveryReissue
	case RecoveryFail:
		return uapi.FlagUserRecovery | uapi.FlagUserRecoveryFailIO
	}
	return 0
}

// DevInfo is what the driver knows of a device (struct ublksrv_ctrl_dev_info).
type DevInfo struct {
	ID          int
	State       State
	Queues      int
	Depth       int
	MaxIOBytes  uint32 // a multiple of the page size; requests are never larger
	DescSize    int    // bytes of one descriptor in the mapping of the char device
	ServerPID   int    // -1: none, or not visible from here
	Flags       Features
	ServerFlags uint64 // stored verbatim for the server; ours is a random token
	OwnerUID    uint32
	OwnerGID    uint32
}

// Recovery is the recovery mode that the flags add up to.
func (d *DevInfo) Recovery() Recovery {
	switch {
	case !d.Flags.Has(uapi.FlagUserRecovery) || d.Unprivileged():
		return RecoveryNone
	case d.Flags.Has(uapi.FlagUserRecoveryReissue):
		return RecoveryReissue
	case d.Flags.Has(uapi.FlagUserRecoveryFailIO):
		return RecoveryFail
	}
	return RecoveryRequeue
}

// Unprivileged reports whether commands must carry the char device's path.
func (d *DevInfo) Unprivileged() bool { return d.Flags.Has(uapi.FlagUnprivilegedDev) }

// CharPath is the path of device id's char device. Nothing but the server that
// serves the device may open it.
func CharPath(id int) string { return fmt.Sprintf("/dev/ublkc%d", id) }

// BlockPath is the path of device id's block device.
func BlockPath(id int) string { return fmt.Sprintf("/dev/ublkb%d", id) }

func fromWire(w *uapi.DevInfo) DevInfo {
	d := DevInfo{
		ID:          int(w.DevID),
		State:       State(w.State),
		Queues:      int(w.NrHWQueues),
		Depth:       int(w.QueueDepth),
		MaxIOBytes:  w.MaxIOBufBytes,
		DescSize:    int(w.IODescSize),
		ServerPID:   int(w.ServerPID),
		Flags:       Features(w.Flags),
		ServerFlags: w.ServerFlags,
		OwnerUID:    w.OwnerUID,
		OwnerGID:    w.OwnerGID,
	}
	if d.DescSize == 0 { // before 7.3 the field did not exist
		d.DescSize = uapi.IODescSize
	}
	return d
}
