package server

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"

	"ublk/internal/uapi"
	"ublk/internal/uring"
)

// prime makes START_USER_RECOVERY safe on kernels before 6.16. There the command
// forgets the threads of all queues, and a recovery that is cut off between it
// and the last fetch leaves a trap, which nothing tells: the next one refuses a
// device of which no queue has been fetched since (EINVAL), and follows a null
// pointer where only some have, which ends the machine
// (ublk_drv.c:ublk_ctrl_start_recovery and ublk_queue_reinit, v6.12; seen in the
// lab). So whatever was before, what can be fetched of every queue is fetched,
// and let go of again, by a thread that ends, as the driver expects of those
// that have fetched. Kernels with QUIESCE_DEV forget when the server goes.
func (d *Device) prime(ctx context.Context) error {
	have, err := d.client.Features(ctx)
	if err != nil || have.Has(uapi.FlagQuiesce) {
		return err
	}
	if err := d.openChar(ctx); err != nil {
		return err
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		var errs []error
		rings := make([]*uring.Ring, d.info.Queues)
		for i := range rings {
			var err error
			rings[i], err = d.fetchBlindly(i)
			errs = append(errs, err)
		}
		for _, r := range rings {
			if r != nil {
				errs = append(errs, r.Close())
			}
		}
		done <- errors.Join(errs...)
	}()
	err = errors.Join(<-done, unix.Close(d.char))
	d.char = -1
	if err != nil {
		return fmt.Errorf("device %d: before its recovery: %w", d.info.ID, err)
	}
	return nil
}

// nowhere is an address that a fetch can name, for the driver wants one, and
// where nothing is ever mapped.
const nowhere = 4096

// fetchBlindly sends a fetch for every tag of a queue. Those of a queue that has
// a dead thread still are refused, which does no harm. Nothing is delivered to a
// device that waits for END_USER_RECOVERY, so that no buffer is touched.
func (d *Device) fetchBlindly(id int) (*uring.Ring, error) {
	ring, err := uring.New(uring.Config{Entries: uint32(d.info.Depth), CQEntries: 2 * uint32(d.info.Depth), SingleIssuer: true})
	if err != nil {
		return nil, err
	}
	q := &Queue{dev: d, id: id, mode: d.mode, ring: ring}
	if err := ring.RegisterFiles([]int32{charFile: int32(d.char)}); err != nil {
		return ring, err
	}
	for tag := range d.info.Depth {
		q.command(uapi.IOFetchReq, &Request{q: q, tag: uint16(tag), addr: nowhere}).Result = -1
	}
	if q.err != nil {
		return ring, q.err
	}
	return ring, ring.Flush()
}
