package server

import (
	"fmt"
	"slices"
	"strings"

	"ublk/ctrl"
	"ublk/internal/uapi"
)

// DataMode is the way in which data moves between a request and the server.
type DataMode int

const (
	// DataAuto picks the first of the target's modes that the kernel has.
	DataAuto DataMode = iota
	// DataCopy: the driver copies to and from a buffer per tag.
	DataCopy
	// DataUserCopy: the server copies by pread and pwrite on the char device.
	DataUserCopy
	// DataZeroCopy: the server registers the request's pages as a fixed buffer.
	DataZeroCopy
	// DataAutoReg: the driver registers them before it delivers the request.
	DataAutoReg
	// DataNone: user copy without copying. What readers see is undefined.
	DataNone
)

var modeNames = [...]string{"auto", "copy", "user-copy", "zero-copy", "auto-reg", "none"}

// DataModes lists the names that UnmarshalText accepts.
func DataModes() []string { return modeNames[:] }

func (m DataMode) String() string { return modeNames[m] }

// MarshalText implements encoding.TextMarshaler.
func (m DataMode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText accepts the names of DataModes.
func (m *DataMode) UnmarshalText(b []byte) error {
	for i, n := range modeNames {
		if n == string(b) {
			*m = DataMode(i)
			return nil
		}
	}
	return fmt.Errorf("data mode %q: one of %s", b, strings.Join(modeNames[:], ", "))
}

// flags are the device flags that m needs. AUTO_BUF_REG comes with ZERO_COPY so
// that a request whose slot was taken can be registered by hand.
func (m DataMode) flags() uint64 {
	switch m {
	case DataUserCopy, DataNone:
		return uapi.FlagUserCopy
	case DataZeroCopy:
		return uapi.FlagSupportZeroCopy
	case DataAutoReg:
		return uapi.FlagAutoBufReg | uapi.FlagSupportZeroCopy
	}
	return 0
}

// ModeOf is the mode that a device was added with. DataNone is not told from
// DataUserCopy: the driver knows no difference.
func ModeOf(f ctrl.Features) DataMode {
	switch {
	case f.Has(uapi.FlagAutoBufReg):
		return DataAutoReg
	case f.Has(uapi.FlagSupportZeroCopy):
		return DataZeroCopy
	case f.Has(uapi.FlagUserCopy):
		return DataUserCopy
	}
	return DataCopy
}

// buffered reports whether requests have a buffer of the server's.
func (m DataMode) buffered() bool { return m == DataCopy || m == DataUserCopy }

// pick chooses the mode for a target on a kernel: want itself, or the first of
// the target's modes that the kernel has and an unprivileged device may use.
func (m DataMode) pick(t Target, have ctrl.Features, unprivileged bool) (DataMode, error) {
	modes := modesOf(t)
	if m != DataAuto {
		if !slices.Contains(modes, m) {
			return 0, fmt.Errorf("data mode %s: this target has only %s", m, joinModes(modes))
		}
		return m, checkMode(m, have, unprivileged)
	}
	var err error
	for _, can := range modes {
		if can == DataNone { // only when asked for
			continue
		}
		if err = checkMode(can, have, unprivileged); err == nil {
			return can, nil
		}
	}
	return 0, err
}

func checkMode(m DataMode, have ctrl.Features, unprivileged bool) error {
	if unprivileged && m != DataCopy {
		return fmt.Errorf("data mode %s: the driver allows unprivileged devices only copy", m)
	}
	if m == DataAutoReg { // which all kernels that have it have the other with
		return have.Require(uapi.FlagAutoBufReg)
	}
	return have.Require(m.flags())
}

func joinModes(modes []DataMode) string {
	names := make([]string, len(modes))
	for i, m := range modes {
		names[i] = m.String()
	}
	return strings.Join(names, ", ")
}
