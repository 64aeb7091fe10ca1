package ctrl_test

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"ublk/internal/uapi"
)

// since marks a step on a command that Linux 6.12 does not know.
func since(s step) step { return s.on612(unix.EOPNOTSUPP) }

// lifeScenarios are the facts of states, servers and openers.
var lifeScenarios = map[string][]step{
	"start: before a server": {
		ok("add", add(nil)),
		fails(unix.EINVAL, "pid 0", cmd(uapi.CmdStartDev, 0)),
		fails(unix.EINVAL, "no parameters", serve(uapi.CmdStartDev)),
		ok("set", set(nil)),
		fails(unix.EINVAL, "negative pid", cmd(uapi.CmdStartDev, 1<<32-1)),
		fails(context.DeadlineExceeded, "no server", hangs(uapi.CmdStartDev, 1)),
		ok("open", open),
		fails(unix.EBUSY, "opened twice", open),
		fails(context.DeadlineExceeded, "nothing fetched", hangs(uapi.CmdStartDev, 1)),
		ok("fetch", fetch),
		fails(unix.EINVAL, "wrong pid", cmd(uapi.CmdStartDev, 1)).on612(nil),
		ok("stop", cmd(uapi.CmdStopDev, 0)),
		ok("close", closeChar),
		del,
	},
	"live": live(0,
		ok("pid", info(func(e *env, i uapi.DevInfo) error {
			if int(i.ServerPID) != e.pid {
				return fmt.Errorf("pid %d, want %d", i.ServerPID, e.pid)
			}
			return nil
		})),
		ok("disk number", params(func(_ *env, p uapi.Params) error {
			if p.Devt.DiskMajor != 259 || p.Types != uapi.ParamBasic|uapi.ParamDevt {
				return fmt.Errorf("%+v", p)
			}
			return nil
		})),
		fails(unix.EEXIST, "started twice", serve(uapi.CmdStartDev)),
		fails(unix.EACCES, "params of a live device", set(nil)),
		fails(unix.EACCES, "bad params of a live device", set(func(p *uapi.Params) { p.Basic.LogicalBSShift = 1 })),
		fails(unix.EINVAL, "recovery without the flag", cmd(uapi.CmdStartUserRecovery, 0)),
		fails(unix.EINVAL, "end of recovery without the flag", serve(uapi.CmdEndUserRecovery)),
		since(fails(unix.EOPNOTSUPP, "quiesce without the flag", cmd(uapi.CmdQuiesceDev, 0))),
		since(fails(unix.EOPNOTSUPP, "buffer without the flag", payload(uapi.CmdRegBuf, 0, 24))),
		since(ok("size", cmd(uapi.CmdUpdateSize, 4097))),
		ok("size is stored", params(func(e *env, p uapi.Params) error {
			want := uint64(4097)
			if e.old {
				want = 2048
			}
			if p.Basic.DevSectors != want {
				return fmt.Errorf("%d sectors", p.Basic.DevSectors)
			}
			return nil
		})),
		since(ok("size 0", cmd(uapi.CmdUpdateSize, 0))),
		stop, stop,
		ok("stopped", info(func(_ *env, i uapi.DevInfo) error {
			if i.State != uapi.StateDead || i.ServerPID != -1 {
				return fmt.Errorf("state %d pid %d", i.State, i.ServerPID)
			}
			return nil
		})),
		ok("params after stop", set(nil)),
		ok("close", closeChar),
		del,
	),
	"stop: server stays": live(0,
		stop,
		fails(unix.EBUSY, "open", open),
		stop,
		ok("close", closeChar),
		del,
	),

	"stop: openers": live(0,
		ok("open block", openBlock),
		since(fails(unix.EBUSY, "try stop", cmd(uapi.CmdTryStopDev, 0))),
		ok("still live", state(uapi.StateLive)),
		stop,
		fails(unix.EACCES, "params while the old disk is open", set(nil)),
		since(fails(unix.ENODEV, "size without disk", cmd(uapi.CmdUpdateSize, 8))),
		since(fails(unix.ENODEV, "try stop without disk", cmd(uapi.CmdTryStopDev, 0))),
		ok("close char", closeChar),
		ok("delete without waiting", cmd(uapi.CmdDelDevAsync, 0)),
		ok("still there", state(uapi.StateDead)),
		fails(unix.EEXIST, "id is taken", func(e *env) error {
			id := e.id
			return add(func(i *uapi.DevInfo) { i.DevID = uint32(id) })(e)
		}),
		fails(unix.ENOENT, "node is gone", path(uapi.CmdGetDevInfo2, "", 64)),
		fails(context.DeadlineExceeded, "delete waits", hangs(uapi.CmdDelDev, 0)),
		ok("close block", closeBlock),
		fails(unix.ENODEV, "gone", cmd(uapi.CmdDelDev, 0)),
	),
	"try stop": live(0,
		since(ok("try stop", cmd(uapi.CmdTryStopDev, 0))),
		stop,
		ok("dead", state(uapi.StateDead)),
		ok("close", closeChar),
		del,
	),
	"server lost": live(0,
		ok("close", closeChar),
		ok("dead", state(uapi.StateDead)),
		fails(unix.ENOENT, "no block device", openBlock),
		fails(unix.EINVAL, "recovery", settles(uapi.CmdStartUserRecovery, 0)),
		ok("params again", set(nil)),
		del,
	),
	"recovery: requeue": live(recovery, recoverySteps(uapi.StateQuiesced)...),
	"recovery: reissue": live(reissue, recoverySteps(uapi.StateQuiesced)...),
	"recovery: stop when quiesced": live(recovery,
		ok("close", closeChar),
		ok("quiesced", state(uapi.StateQuiesced)),
		stop,
		ok("dead", state(uapi.StateDead)),
		fails(unix.EBUSY, "recovery of a stopped device", cmd(uapi.CmdStartUserRecovery, 0)),
		del,
	),
	"recovery: not started": {
		ok("add", flagged(recovery)),
		fails(unix.EBUSY, "recovery", cmd(uapi.CmdStartUserRecovery, 0)).on612(unix.EINVAL),
		fails(context.DeadlineExceeded, "end of recovery", hangs(uapi.CmdEndUserRecovery, 1)),
		since(fails(unix.EOPNOTSUPP, "quiesce", cmd(uapi.CmdQuiesceDev, 0))),
		since(fails(unix.ENODEV, "size", cmd(uapi.CmdUpdateSize, 8))),
		since(fails(unix.ENODEV, "try stop", cmd(uapi.CmdTryStopDev, 0))),
		stop,
		ok("delete", cmd(uapi.CmdDelDevAsync, 0)),
	},
}

// recoverySteps take a LIVE device through the loss of its server and back.
func recoverySteps(without uint16) []step {
	return []step{
		fails(unix.EBUSY, "recovery of a live device", cmd(uapi.CmdStartUserRecovery, 0)),
		fails(unix.EBUSY, "end of recovery of a live device", serve(uapi.CmdEndUserRecovery)),
		ok("close", closeChar),
		ok("without server", state(without)),
		fails(unix.EACCES, "params", set(nil)),
		ok("begin", settles(uapi.CmdStartUserRecovery, 0)),
		fails(context.DeadlineExceeded, "end without server", hangs(uapi.CmdEndUserRecovery, 1)),
		ok("open", open),
		fails(unix.EBUSY, "begin with a server", cmd(uapi.CmdStartUserRecovery, 0)).on612(unix.EINVAL),
		ok("fetch", fetch),
		fails(unix.EEXIST, "start", serve(uapi.CmdStartDev)),
		fails(unix.EINVAL, "wrong pid", cmd(uapi.CmdEndUserRecovery, 1)).on612(nil),
		ok("end", serve(uapi.CmdEndUserRecovery)).on612(unix.EBUSY),
		ok("live", state(uapi.StateLive)),
		stop,
		ok("close", closeChar),
		del,
	}
}

// oldScenarios are about what Linux 6.12 cannot do. A device that has had a
// server takes no other one there, but by recovery. START_DEV would succeed all
// the same, with no command to deliver I/O to: of two kernels that were sent it
// one panicked in task work and the other kept the device LIVE. Never send it there.
var oldScenarios = map[string][]step{
	"second server after a stop": live(0,
		stop,
		ok("close", closeChar),
		ok("open", open),
		fails(unix.EINVAL, "fetch", fetch),
		ok("close", closeChar),
		del,
	),
	"second server after a loss": live(0,
		ok("close", closeChar),
		ok("dead", state(uapi.StateDead)),
		ok("open", open),
		fails(unix.EINVAL, "fetch", fetch),
		ok("close", closeChar),
		del,
	),
	"second server on a device never started": {
		ok("add", add(nil)),
		ok("set", set(nil)),
		ok("open", open),
		ok("fetch", fetch),
		ok("close", closeChar),
		ok("open", open),
		fails(unix.EINVAL, "fetch", fetch),
		ok("close", closeChar),
		del,
	},
}

// newScenarios need what Linux 6.12 does not have at all.
var newScenarios = map[string][]step{
	"second server after a stop": live(0,
		stop,
		ok("close", closeChar),
		ok("open", open),
		ok("fetch", fetch),
		start,
		ok("close", closeChar),
		ok("dead", state(uapi.StateDead)),
		ok("set", set(nil)),
		ok("open", open),
		ok("fetch", fetch),
		start,
		stop,
		ok("close", closeChar),
		del,
	),
	"recovery: fail": live(failIO, recoverySteps(uapi.StateFailIO)...),
	"quiesce": live(recovery|uapi.FlagQuiesce,
		ok("quiesce", cmd(uapi.CmdQuiesceDev, 100)),
		ok("close", closeChar),
		ok("quiesced", state(uapi.StateQuiesced)),
		ok("quiesce again", cmd(uapi.CmdQuiesceDev, 100)),
		stop,
		fails(unix.ENODEV, "quiesce a dead one", cmd(uapi.CmdQuiesceDev, 100)),
		del,
	),
	"start: old server stays": live(0,
		stop,
		fails(unix.EBUSY, "start", serve(uapi.CmdStartDev)),
		fails(unix.ENODEV, "fetch", fetch),
		ok("close", closeChar),
		del,
	),
	"shared memory": {
		ok("add", flagged(uapi.FlagShmemZC)),
		fails(unix.EINVAL, "empty", payload(uapi.CmdRegBuf, 0, 24)),
		fails(unix.ENOENT, "not registered", cmd(uapi.CmdUnregBuf, 0)),
		fails(unix.EINVAL, "index 65536", cmd(uapi.CmdUnregBuf, 65536)),
		del,
	},
	"recovery without its first command": live(recovery,
		ok("close", closeChar),
		fails(context.DeadlineExceeded, "end without server", hangs(uapi.CmdEndUserRecovery, 1)),
		ok("open", open),
		ok("fetch", fetch),
		ok("end", serve(uapi.CmdEndUserRecovery)),
		ok("live", state(uapi.StateLive)),
		stop,
		ok("close", closeChar),
		del,
	),
	"second server on a dead device": {
		ok("add", add(nil)),
		ok("set", set(nil)),
		ok("open", open),
		ok("fetch", fetch),
		ok("close", closeChar),
		fails(context.DeadlineExceeded, "start without server, long after one", hangs(uapi.CmdStartDev, 1)),
		ok("open", open),
		fails(context.DeadlineExceeded, "start before the second has fetched", hangs(uapi.CmdStartDev, 1)),
		ok("fetch", fetch),
		start,
		stop,
		ok("close", closeChar),
		del,
	},
}
