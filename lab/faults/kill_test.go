package faults

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/internal/labtest"
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
	modes := []struct {
		args  string
		needs uint64
	}{
		{"--data=copy", 0}, {"--data=user-copy", uapi.FlagUserCopy}, {"--data=zero-copy", uapi.FlagSupportZeroCopy}, {"--data=auto-reg", uapi.FlagAutoBufReg},
		{"--data=copy --buffered", 0}, {"--data=copy --batch", uapi.FlagBatchIO}, {"--data=auto-reg --batch", uapi.FlagAutoBufReg | uapi.FlagBatchIO},
		{"--data=auto-reg --buffered", uapi.FlagAutoBufReg}, {"--data=zero-copy --batch", uapi.FlagSupportZeroCopy | uapi.FlagBatchIO},
		{"--data=user-copy --batch", uapi.FlagUserCopy | uapi.FlagBatchIO},
	}
	for _, mode := range modes[:labtest.Times(4, len(modes))] {
		t.Run(mode.args, func(t *testing.T) {
			if err := have.Require(mode.needs); err != nil {
				t.Skip(err)
			}
			slow := add(t, "-t", "fault", "--on", "mem", "--size", "16M")
			id := add(t, append([]string{"-t", "loop", "-f", node(slow), "--recovery=reissue"}, strings.Fields(mode.args)...)...)
			f := openDisk(t, id)
			await(t, "the first write", writing(f, page(t, 1), 0))
			for round := range byte(labtest.Times(1, 5)) {
				killInWrite(t, c, id, slow, func() <-chan error {
					if strings.Contains(mode.args, "--buffered") { // the flush is what is slow
						await(t, "a write to the page cache", writing(f, page(t, 10+round), 0))
						return syncing(f)
					}
					return writing(f, page(t, 10+round), 0)
				})
				await(t, "a newer write", writing(f, page(t, 100+round), 0))
				await(t, "its flush", syncing(f))
				eventually(t, "the slow disk is idle", func() bool { return inflight(t, slow) == 0 })
				holds(t, f, 0, 100+round)
				below := openDisk(t, slow)
				holds(t, below, 0, 100+round)
				_ = below.Close()
			}
			_ = f.Close()
			run(t, "del", strconv.Itoa(id))
			run(t, "del", strconv.Itoa(slow))
		})
	}
}

// syncing flushes in the background.
func syncing(f *os.File) <-chan error {
	done := make(chan error, 1)
	go func() { done <- f.Sync() }()
	return done
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
