package server_test

import (
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublk/internal/labtest"
	"ublk/internal/uapi"
	"ublk/server"
	"ublk/server/target/loop"
	"ublk/server/target/targettest"
)

// TestLabSlotTaken is automatic registration of buffers where the driver finds
// the tag's slot taken: the request is registered by hand as soon as it is free,
// and neither it nor its data is lost.
func TestLabSlotTaken(t *testing.T) {
	c := labtest.Require(t)
	labtest.RequireFeature(t, c, uapi.FlagAutoBufReg|uapi.FlagBatchIO)
	if _, err := os.Stat("/dev/ram0"); err != nil {
		labtest.Run(t, "modprobe", "brd", "rd_nr=1", "rd_size=32768")
	}
	for _, cfg := range []server.Config{{}, {Batch: true}} {
		t.Run(map[bool]string{false: "auto-reg", true: "auto-reg-batch"}[cfg.Batch], func(t *testing.T) {
			disk, err := loop.Open(loop.Options{File: "/dev/ram0"})
			if err != nil {
				t.Fatal(err)
			}
			target := &squatter{Target: disk}
			cfg.Type, cfg.Depth, cfg.Data = "test", 16, server.DataAutoReg
			d := targettest.Start(t, c, cfg, target)
			fio(t, d, "--rw=randwrite", "--bsrange=4k-64k", "--iodepth=8", "--size=16m", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--randrepeat=0")
			t.Logf("slots taken %d times, requests registered by hand: %d", target.taken.Load(), target.byHand.Load())
			if target.taken.Load() == 0 || target.byHand.Load() == 0 {
				t.Error("no request found its slot taken")
			}
		})
	}
}

// squatter is a loop that now and then takes all free slots of the buffer table.
type squatter struct {
	*loop.Target
	taken, byHand atomic.Int64
}

func (s *squatter) Queue(q *server.Queue) (server.Handler, error) {
	if err := q.AllowTimeouts(); err != nil {
		return nil, err
	}
	inner, err := s.Target.Queue(q)
	return &squatterQueue{target: s, depth: q.Depth(), inner: inner.(server.RingHandler)}, err
}

type squatterQueue struct {
	target *squatter
	depth  int
	inner  server.RingHandler
	count  int

	holder *server.Request // its pages are in the slots
	next   int             // slot to try
	slots  []int           // taken
	leave  bool            // and being given back
}

func (h *squatterQueue) Handle(r *server.Request) {
	if r.ByHand() {
		h.target.byHand.Add(1)
	}
	if h.count++; h.holder == nil && h.count%100 == 0 && r.Op() <= server.OpWrite {
		h.holder, h.next, h.slots, h.leave = r, -1, nil, false
		h.Done(r, -int32(unix.EBUSY))
		return
	}
	h.inner.Handle(r)
}

// Done goes on with what the holder does: it tries one slot after the other,
// keeps what it has got for a while, gives it back, and is served.
func (h *squatterQueue) Done(r *server.Request, res int32) {
	if r != h.holder {
		h.inner.Done(r, res)
		return
	}
	if !h.leave {
		if res >= 0 {
			h.slots = append(h.slots, h.next)
			h.target.taken.Add(1)
		}
		if h.next++; h.next < h.depth {
			r.Occupy(h.next)
			return
		}
		h.leave = true
		r.RingTimeout(10 * time.Millisecond)
		return
	}
	if n := len(h.slots); n > 0 {
		slot := h.slots[n-1]
		h.slots = h.slots[:n-1]
		r.Vacate(slot)
		return
	}
	h.holder = nil
	h.inner.Handle(r)
}
