package faults

import (
	"errors"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/internal/uapi"
)

// TestLabStuckKill is a server that is killed with a request stuck in it: the
// request is sent again to the next server, sticks there as well, and is
// answered when the faults are cleared.
func TestLabStuckKill(t *testing.T) {
	c := begin(t)
	file := sparse(t, filepath.Join(backing(t), "disk"), 16<<20)
	id := add(t, "-t", "fault", "--on", "loop", "-f", file, "--recovery=reissue", "--stuck", "100%:write:0-7")
	name := strconv.Itoa(id)
	f := openDisk(t, id)
	done := writing(f, page(t, 7), 0)
	eventually(t, "the write is in flight", func() bool { return inflight(t, id) == 1 })
	kill(t, c, id)
	lost(t, c, id, ctrl.Quiesced)
	run(t, "recover", name)
	await(t, "a write elsewhere", writing(f, page(t, 8), 1<<20))
	select {
	case err := <-done:
		t.Fatalf("the stuck write was answered: %v", err)
	default:
	}
	if out := run(t, "fault", name, "--clear", "--delay", "1ms"); strings.Contains(out, "stuck") || !strings.Contains(out, "delay  1ms") {
		t.Errorf("ublk fault prints %q", out)
	}
	await(t, "the write that was stuck", done)
	holds(t, f, 0, 7)
	holds(t, f, 1<<20, 8)
	_ = f.Close()
	run(t, "del", name)
}

// TestLabSlowWriteKill kills the server of a loop while its write to a slow disk
// is under way. Its successor must not be let in before that write has ended:
// otherwise it lands after the reissued one, and after newer ones.
func TestLabSlowWriteKill(t *testing.T) {
	c := begin(t)
	have, err := c.Features(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, mode := range []struct {
		name  string
		needs uint64
	}{{"copy", 0}, {"user-copy", uapi.FlagUserCopy}, {"zero-copy", uapi.FlagSupportZeroCopy}, {"auto-reg", uapi.FlagAutoBufReg}} {
		t.Run(mode.name, func(t *testing.T) {
			if err := have.Require(mode.needs); err != nil {
				t.Skip(err)
			}
			slow := add(t, "-t", "fault", "--on", "mem", "--size", "16M")
			id := add(t, "-t", "loop", "-f", node(slow), "--recovery=reissue", "--data="+mode.name)
			f := openDisk(t, id)
			await(t, "the first write", writing(f, page(t, 1), 0))
			for round := range byte(times(1, 5)) {
				killInWrite(t, c, id, slow, func() <-chan error { return writing(f, page(t, 10+round), 0) })
				await(t, "a newer write", writing(f, page(t, 100+round), 0))
				eventually(t, "the slow disk is idle", func() bool { return inflight(t, slow) == 0 })
				holds(t, f, 0, 100+round)
			}
			_ = f.Close()
			run(t, "del", strconv.Itoa(id))
			run(t, "del", strconv.Itoa(slow))
		})
	}
}

// killInWrite kills the server of id while a write of its is in flight on the
// disk slow, and recovers it.
func killInWrite(t *testing.T, c *ctrl.Client, id, slow int, write func() <-chan error) {
	run(t, "fault", strconv.Itoa(slow), "--delay", "3s:write")
	done := write()
	eventually(t, "the slow disk has the write", func() bool { return inflight(t, slow) == 1 })
	run(t, "fault", strconv.Itoa(slow), "--clear") // that write stays slow; the next is not
	kill(t, c, id)
	early := 0
	eventually(t, "START_USER_RECOVERY is accepted", func() bool {
		busy := inflight(t, slow)
		err := c.StartRecovery(t.Context(), id)
		if err != nil && !errors.Is(err, unix.EBUSY) {
			t.Fatal(err)
		}
		if err != nil {
			early += busy
			return false
		}
		if n := inflight(t, slow); n != 0 {
			t.Errorf("recovery was accepted with %d writes of the dead server in flight", n)
		}
		return true
	})
	if early == 0 {
		t.Error("the write ended before recovery was tried: nothing was tested")
	}
	run(t, "recover", strconv.Itoa(id))
	await(t, "the reissued write", done)
}
