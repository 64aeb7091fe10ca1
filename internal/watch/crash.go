package watch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/internal/rundir"
	"ublk/internal/sysfs"
	"ublk/server"
)

// crash is one death of a server and what follows from it.
type crash struct {
	device   *device
	noticed  moment
	pid      int                   // that died; 0 if unknown
	handle   *sysfs.PIDFD          // on it; nil without one
	status   unix.WaitStatus       // if told
	told     bool                  // how it ended is known
	ready    *server.StandbyServer // prepared for the device; nil without one
	examined chan struct{}         // closed: the death was reported
	locked   bool                  // that somebody else has the lock was reported
	stacked  bool                  // that a lower device is missed was reported
}

// release lets go of a server that was prepared in vain, and asks for the next.
func (c *crash) release() {
	if c.ready != nil {
		_ = c.ready.Close()
		c.ready = nil
	}
	if c.device.w.opts.OnCrash == CrashRecover {
		c.device.w.pool.refill()
	}
}

// reapTime is how long another parent may take to reap a server, before the
// report of its death does without the reason.
const reapTime = 100 * time.Millisecond

// examine finds out, beside the recovery, how the server died and what it held,
// and reports it.
func (c *crash) examine() {
	d := c.device
	c.examined = make(chan struct{})
	dir := d.w.state.Dir(d.id)
	e := Event{Kind: Died, PID: c.pid, State: d.info.State.String()}
	_, foreign := server.Remembered(d.info)
	go func() {
		defer close(c.examined)
		for end := time.Now().Add(reapTime); !c.told && c.handle != nil && time.Now().Before(end); time.Sleep(time.Millisecond) {
			c.status, c.told = c.handle.ExitStatus()
		}
		if c.told {
			e.How = howEnded(c.status)
		}
		noticed := c.noticed.wall
		e.Noticed = &noticed
		if foreign == nil {
			e.InFlight = inFlight(dir, c.pid)
			text, _ := LastPanic(dir, 4096, true)
			e.Panic = firstLine(text)
		}
		switch {
		case d.info.State != ctrl.Dead && c.told && c.status == 0:
			e.Kind = Left
		case d.info.State != ctrl.Dead:
		case d.info.Recovery() == ctrl.RecoveryNone && c.told && c.status != 0:
			e.Kind = Lost
		default: // stopped, by whomever
			e.Kind, e.InFlight = Ended, nil
		}
		d.emit(e)
		if foreign == nil && e.Kind == Died && c.pid > 0 {
			_ = Death{PID: c.pid, Noticed: noticed, How: e.How, InFlight: e.InFlight}.Save(dir)
		}
	}()
}

// Ends of a crash that need nothing more.
var (
	errSettled = errors.New("somebody else has seen to it")
	errHeld    = errors.New("left as it is")
)

// restore does what the options say until the device is LIVE, or DEAD, or left
// alone.
func (c *crash) restore(ctx context.Context) {
	d := c.device
	for ctx.Err() == nil {
		if d.crashes.hopeless(time.Now(), d.w.opts.GiveUp) {
			c.giveUp(ctx)
			return
		}
		if lag := d.crashes.lag(); lag > 0 && d.crashes.fails == 0 {
			<-c.examined
			d.emit(Event{Kind: BackOff, Crashes: d.crashes.crashes, Retry: lag.Seconds()})
			if !c.pause(ctx, lag) {
				return
			}
		}
		changed := d.w.changes() // from before the look at the devices below
		err := c.attempt(ctx)
		if err == nil || errors.Is(err, errHeld) || ctx.Err() != nil || c.settled(ctx, err) {
			return
		}
		d.crashes.failed()
		if c.awaitLower(ctx, err, changed) {
			continue
		}
		<-c.examined
		lag := d.crashes.lag()
		d.emit(Event{Kind: Failed, Retry: lag.Seconds(), Text: err.Error()})
		if !c.pause(ctx, lag) {
			return
		}
	}
}

// settled says whether the device waits no more: somebody else recovered it,
// deleted it, or stopped it, which 6.12 does by way of QUIESCED.
func (c *crash) settled(ctx context.Context, err error) bool {
	d := c.device
	info, ierr := d.w.client.Info(ctx, d.id)
	if errors.Is(ierr, ctrl.ErrNoDevice) {
		return true
	}
	return errors.Is(err, errSettled) || ierr == nil && !waits(info)
}

// pause waits before the next attempt; false if none is needed any more.
func (c *crash) pause(ctx context.Context, lag time.Duration) bool {
	d := c.device
	if left := time.Until(d.crashes.since.Add(d.w.opts.GiveUp)); d.w.opts.GiveUp > 0 && left > 0 {
		lag = min(lag, left)
	}
	for end := time.Now().Add(lag); ctx.Err() == nil && time.Now().Before(end); {
		d.sleep(ctx, time.Until(end))
		info, err := d.w.client.Info(ctx, d.id)
		if err != nil || !waits(info) {
			return false
		}
	}
	return ctx.Err() == nil
}

// waits says whether a device waits for a server.
func waits(info ctrl.DevInfo) bool { return info.State == ctrl.Quiesced || info.State == ctrl.FailIO }

// awaitLower waits until the devices below have changed, if that is what err is
// about.
func (c *crash) awaitLower(ctx context.Context, err error, changed <-chan struct{}) bool {
	var stack *StackError
	if !errors.As(err, &stack) {
		return false
	}
	if !c.stacked {
		<-c.examined
		c.device.emit(Event{Kind: Failed, Text: err.Error(), Retry: 1})
		c.stacked = true
	}
	select {
	case <-changed:
	case <-time.After(time.Second):
	case <-ctx.Done():
	}
	return true
}

// attempt does once what the options say, with the device's lock.
func (c *crash) attempt(ctx context.Context) error {
	d := c.device
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	info, err := d.w.client.Info(ctx, d.id)
	if err != nil || !waits(info) {
		return errors.Join(errSettled, err)
	}
	d.info = info
	job, err := d.job()
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, rundir.ErrForeign):
		unlock() // their command may want it
		return c.foreign(ctx)
	case err != nil:
		return err
	}
	switch d.w.opts.OnCrash {
	case CrashHold:
		return c.hold("by order; ublk recover gives it a server")
	case CrashStop, CrashDelete:
		return c.end(ctx, d.w.opts.OnCrash == CrashDelete, "by order")
	}
	return c.recover(ctx, job)
}

// lock takes the device's lock and says who has it when that is somebody else.
func (c *crash) lock(ctx context.Context) (unlock func(), err error) {
	d := c.device
	unlock, err = d.lock(ctx, true)
	var held *rundir.HeldError
	if !errors.As(err, &held) || ctx.Err() != nil {
		return unlock, err
	}
	if !c.locked {
		<-c.examined
		d.emit(Event{Kind: Locked, Text: fmt.Sprintf("by process %d (%s)", held.PID, held.Command)})
		c.locked = true
	}
	return d.lock(ctx, false)
}

func (c *crash) hold(why string) error {
	<-c.examined
	c.device.emit(Event{Kind: Held, State: c.device.info.State.String(), Text: why})
	return errHeld
}

// attemptTime bounds one attempt; the server itself gives up before.
const attemptTime = ctrl.DefaultTimeout + 10*time.Second

// recover gives the device a new server: one that stands by, if there is one.
func (c *crash) recover(ctx context.Context, job server.Job) error {
	d := c.device
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	below, err := Below(job.Config)
	if err != nil {
		return err
	}
	if err := Standing(ctx, d.w.client, d.w.machine, Step{ID: d.id, Below: below}, func(int) bool { return false }); err != nil {
		return err
	}
	if c.ready == nil {
		c.ready = d.w.pool.take()
	}
	var started *server.Started
	if s := c.ready; s != nil {
		c.ready = nil
		if started, err = s.Take(ctx, job); err == nil {
			d.w.pool.serves(started.PID)
		} else {
			_ = s.Close()
		}
	} else {
		started, err = d.w.pool.spawn(ctx, job)
	}
	if err != nil {
		return err
	}
	c.recovered(started)
	return nil
}

// recovered reports a device that is LIVE again.
func (c *crash) recovered(s *server.Started) {
	d := c.device
	d.crashes.recovered(time.Now())
	d.pid, d.known = s.PID, true
	d.w.change()
	noticed, quiesced, live := c.noticed.wall, c.noticed.at(s.Accepted), c.noticed.at(s.Live)
	<-c.examined
	d.emit(Event{
		Kind: Recovered, PID: s.PID, OldPID: max(c.pid, 0), Noticed: &noticed, Quiesced: &quiesced, Live: &live,
		Kernel: milliseconds(quiesced.Sub(noticed)), Ours: milliseconds(live.Sub(quiesced)), Text: strings.Join(s.Warnings, "; "),
	})
}

// giveUp stops a device that cannot be recovered, so that its users get errors
// instead of waiting for ever.
func (c *crash) giveUp(ctx context.Context) {
	d := c.device
	<-c.examined
	unlock, err := c.lock(ctx)
	if err == nil {
		defer unlock()
		why := fmt.Sprintf("it could not be recovered for %s", time.Since(d.crashes.since).Round(time.Second))
		err = c.end(ctx, false, why)
	}
	if err != nil {
		d.emit(Event{Kind: Trouble, Text: err.Error()})
	}
}

// end stops the device, and deletes it.
func (c *crash) end(ctx context.Context, del bool, why string) error {
	d := c.device
	if err := d.w.client.Stop(ctx, d.id); err != nil {
		return err
	}
	<-c.examined
	d.info.State, d.idle = ctrl.Dead, true // which so need not be reported again
	if !del {
		d.emit(Event{Kind: Stopped, Text: why})
		return nil
	}
	if err := d.w.client.Del(ctx, d.id); err != nil {
		return err
	}
	d.emit(Event{Kind: Deleted, Text: why})
	return d.w.state.Dir(d.id).Remove()
}

// foreign has a device of another program recovered by the command for that.
func (c *crash) foreign(ctx context.Context) error {
	d := c.device
	if d.w.opts.Exec == "" {
		return c.hold(fmt.Sprintf("nothing is remembered of it; ublk recover %d --type TYPE gives it a server of ours", d.id))
	}
	limited, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	cmd := exec.CommandContext(limited, "/bin/sh", "-c", d.w.opts.Exec)
	cmd.Env = append(os.Environ(), "UBLK_ID="+strconv.Itoa(d.id), "UBLK_STATE="+d.info.State.String(), "UBLK_OLD_PID="+strconv.Itoa(max(c.pid, 0)))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", d.w.opts.Exec, err)
	}
	info, err := server.AwaitLive(limited, d.w.client, d.id)
	if err != nil {
		return fmt.Errorf("%s: %w", d.w.opts.Exec, err)
	}
	d.crashes.recovered(time.Now())
	d.pid, d.known = info.ServerPID, true
	noticed, live := c.noticed.wall, time.Now()
	<-c.examined
	d.emit(Event{Kind: Recovered, PID: info.ServerPID, OldPID: max(c.pid, 0), Noticed: &noticed, Live: &live, Text: "by " + d.w.opts.Exec})
	d.w.change()
	return nil
}
