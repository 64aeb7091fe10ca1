package watch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/internal/rundir"
	"ublk/internal/stats"
	"ublk/internal/sysfs"
	"ublk/server"
)

// device is the watch over one device: a goroutine that follows its states.
type device struct {
	w       *Watcher
	id      int
	kick    chan struct{} // something has changed: look again
	crashes series

	info   ctrl.DevInfo // as seen last
	name   string
	pid    int  // of the server that was watched last
	known  bool // that server was reported
	idle   bool // the present state was reported, there is nothing to do
	hidden bool // errors of the driver were reported
}

// moment is a time on both clocks: people's, and that of servers' reports.
type moment struct {
	wall time.Time
	mono int64 // CLOCK_MONOTONIC, ns
}

func now() moment { return moment{time.Now(), stats.Now()} }

// at is the wall clock's time of a CLOCK_MONOTONIC time.
func (m moment) at(mono int64) time.Time { return m.wall.Add(time.Duration(mono - m.mono)) }

func (d *device) poke() {
	select {
	case d.kick <- struct{}{}:
	default:
	}
}

func (d *device) emit(e Event) {
	e.ID, e.Name = d.id, d.name
	d.w.emit(e)
}

// run follows the device until it is deleted or ctx ends.
func (d *device) run(ctx context.Context) {
	for ctx.Err() == nil {
		info, err := d.w.client.Info(ctx, d.id)
		switch {
		case errors.Is(err, ctrl.ErrNoDevice):
			if d.w.leave(d) {
				d.emit(Event{Kind: Gone})
				d.w.change()
				return
			}
			continue
		case err != nil:
			if ctx.Err() == nil && !d.hidden {
				d.emit(Event{Kind: Trouble, Text: err.Error()})
				d.hidden = true
			}
			d.sleep(ctx, safetyNet)
			continue
		}
		d.see(info)
		switch info.State {
		case ctrl.Live:
			d.live(ctx)
		case ctrl.Dead:
			d.rest(ctx)
		default:
			d.waiting(ctx)
		}
	}
}

// see notes what the driver says.
func (d *device) see(info ctrl.DevInfo) {
	if info.ServerFlags != d.info.ServerFlags { // another device of the same id
		d.crashes, d.pid, d.known = series{burst: d.w.opts.Burst}, 0, false
	}
	if info.State != d.info.State || info.ServerFlags != d.info.ServerFlags {
		d.idle = false
	}
	d.info = info
	d.name = ""
	if c, err := d.w.state.Dir(d.id).ReadConfig(); err == nil && c.Token == info.ServerFlags {
		d.name = c.Name
	}
}

// sleep waits for something to happen, at most so long.
func (d *device) sleep(ctx context.Context, most time.Duration) {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-d.kick:
	case <-timer.C:
	}
}

// rest waits until a DEAD device is started or deleted, which is announced.
func (d *device) rest(ctx context.Context) {
	if !d.idle {
		d.idle = true
		if d.pid == 0 {
			d.emit(Event{Kind: Watching, State: d.info.State.String()})
		} else {
			d.emit(Event{Kind: Ended, PID: d.pid})
		}
	}
	d.pid, d.known = 0, false
	d.sleep(ctx, 2*safetyNet)
}

// live waits for the end of a LIVE device's server.
func (d *device) live(ctx context.Context) {
	pid := d.info.ServerPID
	if pid > 0 && (pid != d.pid || !d.known) {
		if d.pid != 0 && pid != d.pid { // replaced behind our back: by upgrade, or recover
			d.crashes = series{burst: d.w.opts.Burst}
		}
		d.pid, d.known = pid, true
		d.emit(Event{Kind: Watching, PID: pid})
		d.w.change()
	}
	handle, err := sysfs.OpenPIDFD(d.pid)
	if err != nil { // it died between two looks, or is in another pid namespace
		d.lost(ctx, nil)
		return
	}
	defer handle.Close()
	wait, cancel := context.WithCancel(ctx)
	defer cancel()
	exited := make(chan error, 1)
	go func() { exited <- handle.Wait(wait) }()
	for {
		select {
		case err := <-exited:
			if err == nil {
				d.lost(ctx, handle)
			}
			return
		case <-d.kick:
			if d.same(ctx) {
				continue
			}
			cancel()
			<-exited // it uses handle
			if handle.Exited() {
				d.lost(ctx, handle)
			} else { // stopped, or replaced
				d.w.pool.collectLater(ctx, d.pid)
			}
			return
		}
	}
}

// same says whether the device is still LIVE with the server that is watched.
func (d *device) same(ctx context.Context) bool {
	info, err := d.w.client.Info(ctx, d.id)
	return err == nil && info.State == ctrl.Live && info.ServerPID == d.pid && info.ServerFlags == d.info.ServerFlags
}

// lost follows the death of the server. The device is LIVE until the kernel has
// let go of it. What a new server needs to know is found out meanwhile.
func (d *device) lost(ctx context.Context, handle *sysfs.PIDFD) {
	c := &crash{device: d, noticed: now(), pid: d.pid, handle: handle}
	c.status, c.told = collect(d.pid)
	if d.pid != 0 && !(c.told && c.status == 0) { // exit code 0: it was stopped, or sent away
		c.ready = d.prepare(ctx)
	}
	defer c.release()
	limited, cancel := context.WithTimeout(ctx, ctrl.DefaultTimeout)
	info, err := server.AwaitLoss(limited, d.w.client, d.w.machine, d.id)
	cancel()
	switch {
	case errors.Is(err, server.ErrLive), errors.Is(err, ctrl.ErrNoDevice), ctx.Err() != nil: // the next look will tell
		return
	case err != nil:
		d.emit(Event{Kind: Trouble, PID: d.pid, Text: err.Error()})
		d.sleep(ctx, time.Second)
		return
	}
	d.info, d.idle = info, true
	c.examine()
	if info.State != ctrl.Dead {
		d.crashes.crashed(c.noticed.wall)
		c.restore(ctx)
	}
	<-c.examined
}

// waiting deals with a device that was found without a server.
func (d *device) waiting(ctx context.Context) {
	if d.idle { // nothing can be done, and nothing announces that somebody else did
		d.sleep(ctx, 2*time.Second)
		return
	}
	d.idle = true
	if d.crashes.since.IsZero() {
		d.crashes.crashed(time.Now())
	}
	c := &crash{device: d, noticed: now(), pid: d.info.ServerPID}
	if c.pid <= 0 {
		c.pid = d.pid
	}
	defer c.release()
	c.examine()
	c.restore(ctx)
	<-c.examined
}

// prepare gives the standby server the device that has just lost its own, so
// that it opens the disk while the kernel cleans up. nil if there is none, or
// nothing to prepare for.
func (d *device) prepare(ctx context.Context) *server.StandbyServer {
	job, err := d.job()
	if err != nil || d.w.opts.OnCrash != CrashRecover || d.info.Recovery() == ctrl.RecoveryNone || d.crashes.lag() > 0 {
		return nil
	}
	below, err := Below(job.Config)
	if err != nil || len(below) > 0 { // a look at its file could hang
		return nil
	}
	unlock, held := d.lock(ctx, true)
	if held != nil {
		return nil
	}
	defer unlock()
	s := d.w.pool.take()
	if s == nil {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, ctrl.DefaultTimeout)
	defer cancel()
	if err := s.Prepare(limited, job); err != nil {
		_ = s.Close()
		d.w.pool.refill()
		return nil // the same error will come again, and be reported
	}
	return s
}

// job is the recovery of this device, from what is remembered of it.
func (d *device) job() (server.Job, error) {
	cfg, err := server.Remembered(d.info)
	if err != nil {
		return server.Job{}, err
	}
	if mode := server.ModeOf(d.info.Flags); mode != server.DataUserCopy || cfg.Data != server.DataNone {
		cfg.Data = mode
	}
	return server.Job{Action: server.ActionRecover, ID: d.id, Config: cfg}, nil
}

// lock takes the device's lock, at once or when it can be had; the error is that
// of the attempt.
func (d *device) lock(ctx context.Context, once bool) (unlock func(), err error) {
	var lock *rundir.Lock
	if once {
		lock, err = d.w.state.TryLock(d.id)
	} else {
		lock, err = d.w.state.Lock(ctx, d.id)
	}
	if err != nil {
		return nil, err
	}
	return func() { _ = lock.Unlock() }, nil
}

// kill ends the server, if it is still the one that was watched.
func (d *device) kill(pid int) error {
	handle, err := sysfs.OpenPIDFD(pid)
	if err != nil {
		return err
	}
	defer handle.Close()
	info, err := d.w.client.Info(context.Background(), d.id)
	if err != nil {
		return err
	}
	if info.State != ctrl.Live || info.ServerPID != pid {
		return fmt.Errorf("device %d is %s, its server %d", d.id, info.State, info.ServerPID)
	}
	return handle.Signal(unix.SIGKILL)
}
