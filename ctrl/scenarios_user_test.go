package ctrl_test

import (
	"fmt"

	"golang.org/x/sys/unix"

	"ublk/internal/uapi"
)

// become changes the caller for the steps that follow.
func become(privileged bool) step {
	return ok(fmt.Sprintf("privileged: %v", privileged), func(e *env) error { e.Become(privileged); return nil })
}

// prefix says whether the following commands carry the path of the device.
func prefix(on bool) step {
	return ok(fmt.Sprintf("path: %v", on), func(e *env) error { e.prefixed = on; return nil })
}

func chown(write bool) step {
	return ok(fmt.Sprintf("node writable: %v", write), func(e *env) error { return e.Chown(e.id, write) })
}

// plain edits a request into one of a user, with exactly these further flags.
func plain(flags uint64) func(*uapi.DevInfo) {
	return func(i *uapi.DevInfo) { i.Flags = uapi.FlagUnprivilegedDev | flags }
}

// userScenarios are about callers without CAP_SYS_ADMIN, and their devices.
var userScenarios = map[string][]step{
	"user: device of root": {
		ok("add", add(nil)),
		become(false),
		ok("features", payload(uapi.CmdGetFeatures, 0, 8)),
		fails(unix.EPERM, "info", state(uapi.StateDead)),
		fails(unix.EPERM, "info2", path(uapi.CmdGetDevInfo2, "", 64)),
		fails(unix.EPERM, "info2 without path", payload(uapi.CmdGetDevInfo2, 0, 64)),
		fails(unix.EPERM, "stop", cmd(uapi.CmdStopDev, 0)),
		fails(unix.EPERM, "unknown command", cmd(0xc0207530, 0)),
		become(true),
		del,
	},
	"user: add": {
		become(false),
		fails(unix.EPERM, "without the flag", add(nil)),
		fails(unix.EINVAL, "bad size comes first", add(func(i *uapi.DevInfo) { i.QueueDepth = 0 })),
		fails(unix.EINVAL, "user copy", add(plain(uapi.FlagUserCopy))),
		ok("recovery is cleared", addGot(plain(uapi.FlagUserRecovery|uapi.FlagUserRecoveryReissue), func(i uapi.DevInfo) error {
			if i.Flags&(uapi.FlagUserRecovery|uapi.FlagUserRecoveryReissue) != 0 || i.Flags&uapi.FlagUnprivilegedDev == 0 {
				return fmt.Errorf("flags %#x", i.Flags)
			}
			return nil
		})),
		become(true),
		prefix(true),
		del,
	},
	"user: path": {
		become(false),
		ok("add", add(plain(0))),
		chown(true),
		fails(unix.EINVAL, "info without path", state(uapi.StateDead)),
		fails(unix.EINVAL, "set without path", set(nil)),
		fails(unix.EINVAL, "stop without path", cmd(uapi.CmdStopDev, 0)),
		fails(unix.EPERM, "path of something else", path(uapi.CmdStopDev, "/dev/null", 0)),
		fails(unix.ENOENT, "path of nothing", path(uapi.CmdStopDev, "/dev/ublkc77", 0)),
		prefix(true),
		ok("info", state(uapi.StateDead)),
		fails(unix.EINVAL, "short info", payload(uapi.CmdGetDevInfo, 0, 63)),
		ok("affinity", payload(uapi.CmdGetQueueAffinity, 0, 64)),
		ok("set", set(nil)),
		ok("get", groups(uapi.ParamBasic|uapi.ParamDevt)),
		fails(unix.EINVAL, "unknown command", cmd(0xc0207530, 0)),
		fails(unix.EINVAL, "delete without waiting", cmd(uapi.CmdDelDevAsync, 0)),
		chown(false),
		ok("read: info", state(uapi.StateDead)),
		ok("read: params", groups(uapi.ParamBasic|uapi.ParamDevt)),
		fails(unix.EACCES, "read: set", set(nil)),
		fails(unix.EACCES, "read: delete", cmd(uapi.CmdDelDev, 0)),
		become(true),
		prefix(false),
		fails(unix.EINVAL, "root without path", state(uapi.StateDead)),
		prefix(true),
		ok("root", state(uapi.StateDead)),
		del,
	},
	"user: life": {
		become(false),
		ok("add", add(plain(uapi.FlagNeedGetData|uapi.FlagNoAutoPartScan))),
		chown(true),
		prefix(true),
		ok("set", set(func(p *uapi.Params) { p.Basic.DevSectors = 0 })),
		ok("open", open),
		ok("fetch", fetch),
		start,
		ok("live", state(uapi.StateLive)),
		fails(unix.EINVAL, "recovery", cmd(uapi.CmdStartUserRecovery, 0)),
		ok("size", cmd(uapi.CmdUpdateSize, 0)).on612(unix.EINVAL),
		ok("close", closeChar),
		ok("dead", state(uapi.StateDead)),
		del,
		become(true),
	},
}
