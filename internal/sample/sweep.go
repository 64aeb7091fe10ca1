package sample

import (
	"context"
	"sync/atomic"
	"time"
)

// sweep has the devices' probes look, one after the other on one goroutine. The
// goroutine of a look that takes longer than patience is left alone with it,
// and another one goes on with the next device: until the look returns, the
// device has not answered. For the first one the patience is another: whom it
// asks may have to be started.
func sweep(ctx context.Context, devices []*device, first, patience time.Duration) {
	timer := time.NewTimer(first)
	defer timer.Stop()
	for next := 0; next < len(devices); {
		// The results fit in, so that nobody has to take them. The device at turn is
		// being looked at; whoever changes it has it: the goroutine to go on with
		// the next one, we to send it away.
		results := make(chan seen, len(devices)-next)
		turn := new(atomic.Int64)
		turn.Store(int64(next))
		go look(ctx, devices, next, turn, results)
		if next > 0 {
			timer.Reset(patience)
		}
		for next < len(devices) {
			select {
			case r := <-results:
				devices[next].take(r)
				next++
				timer.Reset(patience)
				continue
			case <-timer.C:
			}
			if turn.CompareAndSwap(int64(next), -1) {
				devices[next].pending = results
				next++
				break
			}
			timer.Reset(patience) // it has just finished
		}
	}
}

// look looks at the devices from first on, until it loses its turn.
func look(ctx context.Context, devices []*device, first int, turn *atomic.Int64, results chan<- seen) {
	for i := first; i < len(devices); i++ {
		results <- devices[i].probe.look(ctx)
		if !turn.CompareAndSwap(int64(i), int64(i+1)) {
			return
		}
	}
}
