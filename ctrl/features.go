package ctrl

import (
	"fmt"
	"iter"
	"math/bits"
	"strings"

	"ublk/internal/uapi"
)

// Features is a set of UBLK_F_… bits: what a kernel offers, or what a device
// was added with.
type Features uint64

// Feature is one row of the feature table.
type Feature struct {
	Flag  uint64
	Name  string // as in ublk_cmd.h
	Since string // first release of Linux that offers it
	Needs string // what else it takes; empty: nothing
	Help  string
}

// features is the one table: GET_FEATURES decides whether a kernel has a
// feature, the release only tells people what to look for.
var features = [...]Feature{
	{uapi.FlagSupportZeroCopy, "UBLK_F_SUPPORT_ZERO_COPY", "6.15", "CAP_SYS_ADMIN", "requests' pages can be registered as fixed buffers"},
	{uapi.FlagURingCmdCompInTask, "UBLK_F_URING_CMD_COMP_IN_TASK", "6.0", "", "completions run in the server's thread (always on)"},
	{uapi.FlagNeedGetData, "UBLK_F_NEED_GET_DATA", "6.0", "plain copy", "write data is fetched in a second step"},
	{uapi.FlagUserRecovery, "UBLK_F_USER_RECOVERY", "6.1", "CAP_SYS_ADMIN", "the disk survives its server"},
	{uapi.FlagUserRecoveryReissue, "UBLK_F_USER_RECOVERY_REISSUE", "6.1", "UBLK_F_USER_RECOVERY", "I/O held by a dead server is delivered again"},
	{uapi.FlagUnprivilegedDev, "UBLK_F_UNPRIVILEGED_DEV", "6.3", "plain copy", "devices of users without CAP_SYS_ADMIN"},
	{uapi.FlagCmdIoctlEncode, "UBLK_F_CMD_IOCTL_ENCODE", "6.4", "", "ioctl-encoded commands (always on)"},
	{uapi.FlagUserCopy, "UBLK_F_USER_COPY", "6.5", "CAP_SYS_ADMIN", "the server copies data by pread and pwrite"},
	{uapi.FlagZoned, "UBLK_F_ZONED", "6.6", "CONFIG_BLK_DEV_ZONED; user copy or zero copy", "zoned devices"},
	{uapi.FlagUserRecoveryFailIO, "UBLK_F_USER_RECOVERY_FAIL_IO", "6.13", "UBLK_F_USER_RECOVERY", "I/O fails while there is no server"},
	{uapi.FlagUpdateSize, "UBLK_F_UPDATE_SIZE", "6.16", "", "a live device can be resized"},
	{uapi.FlagAutoBufReg, "UBLK_F_AUTO_BUF_REG", "6.16", "CAP_SYS_ADMIN", "the driver registers requests' pages itself"},
	{uapi.FlagQuiesce, "UBLK_F_QUIESCE", "6.16", "UBLK_F_USER_RECOVERY", "a server can be replaced without an I/O error"},
	{uapi.FlagPerIODaemon, "UBLK_F_PER_IO_DAEMON", "6.16", "", "every tag may have a thread of its own (always on)"},
	{uapi.FlagBufRegOffDaemon, "UBLK_F_BUF_REG_OFF_DAEMON", "6.17", "", "any thread may register buffers (always on)"},
	{uapi.FlagBatchIO, "UBLK_F_BATCH_IO", "7.0", "", "one command carries many requests"},
	{uapi.FlagIntegrity, "UBLK_F_INTEGRITY", "7.0", "CONFIG_BLK_DEV_INTEGRITY; user copy", "protection information"},
	{uapi.FlagSafeStopDev, "UBLK_F_SAFE_STOP_DEV", "7.0", "", "stop only while nobody has the device open"},
	{uapi.FlagNoAutoPartScan, "UBLK_F_NO_AUTO_PART_SCAN", "7.0", "", "no partition scan after start"},
	{uapi.FlagShmemZC, "UBLK_F_SHMEM_ZC", "7.1", "CAP_SYS_ADMIN", "zero copy through memory shared with the client"},
	{uapi.FlagIODescSize, "UBLK_F_IO_DESC_SIZE", "7.3", "", "larger descriptors"},
}

// BaseFeatures is what every supported kernel (6.5 and newer) has; it stands in
// where GET_FEATURES cannot be asked.
const BaseFeatures = Features(uapi.FlagURingCmdCompInTask | uapi.FlagNeedGetData | uapi.FlagUserRecovery |
	uapi.FlagUserRecoveryReissue | uapi.FlagUnprivilegedDev | uapi.FlagCmdIoctlEncode | uapi.FlagUserCopy)

// AllFeatures yields the feature table in the order of the bits.
func AllFeatures() iter.Seq[Feature] {
	return func(yield func(Feature) bool) {
		for _, f := range features {
			if !yield(f) {
				return
			}
		}
	}
}

// LookupFeature finds a feature by its header name, with or without the
// UBLK_F_ prefix, in any case, - and _ being the same.
func LookupFeature(name string) (Feature, bool) {
	want := strings.TrimPrefix(strings.ToUpper(strings.ReplaceAll(name, "-", "_")), "UBLK_F_")
	for _, f := range features {
		if strings.TrimPrefix(f.Name, "UBLK_F_") == want {
			return f, true
		}
	}
	return Feature{}, false
}

// Has reports whether all bits of flag are in the set.
func (f Features) Has(flag uint64) bool { return uint64(f)&flag == flag }

// Names lists the set by header name, in bit order; unknown bits as hex.
func (f Features) Names() []string {
	names := make([]string, 0, bits.OnesCount64(uint64(f)))
	for bit := range 64 {
		if flag := uint64(1) << bit; f.Has(flag) {
			names = append(names, featureOf(flag).Name)
		}
	}
	return names
}

// Require returns an *UnsupportedError for the first bit of flags that is not
// in the set, nil when all are.
func (f Features) Require(flags uint64) error {
	missing := flags &^ uint64(f)
	if missing == 0 {
		return nil
	}
	row := featureOf(missing & -missing)
	return &UnsupportedError{Feature: row.Name, Since: row.Since}
}

func featureOf(flag uint64) Feature {
	if i := bits.TrailingZeros64(flag); i < len(features) {
		return features[i]
	}
	return Feature{Flag: flag, Name: fmt.Sprintf("%#x", flag)}
}
