package watch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ublk/ctrl"
	"ublk/internal/rundir"
	"ublk/server"
)

// progress is what was seen of the requests of one disk.
type progress struct {
	done  uint64
	since time.Time // no request has completed since
	told  bool
}

// findHung looks for devices that are LIVE, have requests, and complete none:
// their server is stopped or stuck, or the driver keeps the requests back from
// it. One read of /proc/diskstats tells for all.
func (w *Watcher) findHung(ctx context.Context) {
	tick := time.NewTicker(max(w.opts.HangAfter/4, time.Second))
	defer tick.Stop()
	seen := map[int]*progress{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		stats, err := w.machine.DiskStats()
		if err != nil {
			continue
		}
		for id, stat := range stats {
			p := seen[id]
			switch {
			case stat.InFlight == 0:
				delete(seen, id)
			case p == nil || p.done != stat.Done():
				seen[id] = &progress{done: stat.Done(), since: time.Now()}
			case !p.told && time.Since(p.since) >= w.opts.HangAfter:
				p.told = w.hung(ctx, id, p)
			}
		}
		for id := range seen {
			if _, there := stats[id]; !there {
				delete(seen, id)
			}
		}
	}
}

// hung reports a device whose requests do not move, if it is LIVE, and kills its
// server if that is wanted and the device survives it.
func (w *Watcher) hung(ctx context.Context, id int, p *progress) bool {
	info, err := w.client.Info(ctx, id)
	if err != nil || info.State != ctrl.Live || info.ServerPID <= 0 {
		return false
	}
	w.mu.Lock()
	d := w.devices[id]
	w.mu.Unlock()
	if d == nil {
		return false
	}
	e := Event{Kind: Hung, ID: id, PID: info.ServerPID, State: info.State.String()}
	e.Text = fmt.Sprintf("no request has completed for %s, server %d %s", time.Since(p.since).Round(time.Second), info.ServerPID, w.condition(id, info.ServerPID))
	w.emit(e)
	if w.opts.OnHang != HangKill || info.Recovery() == ctrl.RecoveryNone {
		return true
	}
	if _, err := server.Remembered(info); err != nil && w.opts.Exec == "" {
		return true // nobody would give it another one
	}
	unlock, err := d.lock(ctx, true)
	if err != nil { // an upgrade looks the same for a while
		var held *rundir.HeldError
		if errors.As(err, &held) {
			return false
		}
		w.trouble("device %d: %v", id, err)
		return true
	}
	defer unlock()
	if err := d.kill(info.ServerPID); err != nil {
		w.trouble("device %d: %v", id, err)
		return true
	}
	w.emit(Event{Kind: Killed, ID: id, PID: info.ServerPID})
	return true
}

// condition says what is to be seen of a server that does not answer.
func (w *Watcher) condition(id, pid int) string {
	inflight, err := w.machine.Inflight(id)
	if err == nil && inflight.Total() == 0 {
		return "is not given them: a thread of it has ended, or a quiesce was not finished"
	}
	process, err := w.machine.ProcessStat(pid)
	switch {
	case err != nil:
		return "is gone"
	case process.State == 'T' || process.State == 't':
		return "is stopped by a signal"
	case process.State == 'D':
		return "hangs in the kernel"
	}
	return "has them and does not answer"
}
