package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"ublk/internal/rundir"
)

// StandbyServer is a serving process without a device: it is started and
// hardened, and becomes the server of a device that waits for recovery without
// a process having to be started first. It ends with its owner's process, or by
// Close. One goroutine at a time.
type StandbyServer struct {
	child    *child
	jobs     *os.File
	prepared bool
}

// Standby starts a serving process and returns when it waits for its job.
func Standby(ctx context.Context) (*StandbyServer, error) {
	log, err := rundir.Default().NewLog()
	if err != nil {
		return nil, err
	}
	// It has a name only while it is made: nothing stays of a process that never
	// gets a device, and one that gets a device goes over to that one's log.
	if err := os.Remove(log.Name()); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	in, jobs, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	defer in.Close()
	c, err := launch(thisExecutable, in, log)
	if err != nil {
		return nil, errors.Join(err, log.Close(), jobs.Close())
	}
	s := &StandbyServer{child: c, jobs: jobs}
	if err := s.send(Job{Action: ActionStandby}); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if _, err := c.report(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// PID is the process.
func (s *StandbyServer) PID() int { return s.child.proc.Pid }

func (s *StandbyServer) send(order any) error {
	if err := json.NewEncoder(s.jobs).Encode(order); err != nil {
		return fmt.Errorf("standby server %d: %w", s.PID(), err)
	}
	return nil
}

// Prepare gives the process its job, of ActionRecover, and returns when it has
// opened the target and found that it fits the device, which may be LIVE still.
// Take makes it go on. On error the process has ended.
func (s *StandbyServer) Prepare(ctx context.Context, job Job) error {
	job.Hold, s.prepared = true, true
	_, err := s.give(ctx, job)
	return err
}

// Take makes the process serve job, as Spawn does, or the job that it was
// prepared for. Afterwards the process is on its own.
func (s *StandbyServer) Take(ctx context.Context, job Job) (*Started, error) {
	var order any = job
	if s.prepared {
		order = goAhead{true}
	}
	r, err := s.give(ctx, order)
	if err != nil {
		return nil, err
	}
	return r.Started, s.Close()
}

func (s *StandbyServer) give(ctx context.Context, order any) (report, error) {
	if job, ok := order.(Job); ok { // from here on it writes to the device's log
		log, err := rundir.Default().Dir(job.ID).OpenLog()
		if err != nil {
			return report{}, err
		}
		_ = s.child.log.Close()
		s.child.log = log
		if s.child.logStart, err = log.Seek(0, io.SeekEnd); err != nil {
			return report{}, err
		}
	}
	if err := s.send(order); err != nil {
		return report{}, err
	}
	return s.child.report(ctx)
}

// Close lets go of the process. One that has no device ends.
func (s *StandbyServer) Close() error {
	return errors.Join(s.jobs.Close(), s.child.reports.Close(), s.child.log.Close())
}

// goAhead is the word that a prepared process waits for.
type goAhead struct {
	Go bool `json:"go"`
}

// standBy waits for a job, in the process itself. Nothing is taken if the owner
// ends, or a signal comes, first.
func (p *process) standBy() (taken bool, err error) {
	if err := p.connect(); err != nil {
		p.say(report{Error: toWire(err)})
		return false, err
	}
	p.say(report{Standing: true})
	if p.job, err = await[Job](p); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, errSignalled) {
			err = nil
		}
		return false, err
	}
	log, err := rundir.Default().Dir(p.job.ID).OpenLog()
	if err == nil {
		err = errors.Join(unix.Dup3(int(log.Fd()), int(os.Stderr.Fd()), 0), log.Close())
	}
	if err != nil {
		p.say(report{Error: toWire(err)})
		return false, err
	}
	return true, nil
}

var errSignalled = errors.New("ended by a signal")

// await returns the next order.
func await[T any](p *process) (T, error) {
	type result struct {
		order T
		err   error
	}
	got := make(chan result, 1)
	go func() {
		var r result
		r.err = p.orders.Decode(&r.order)
		got <- r
	}()
	select {
	case r := <-got:
		return r.order, r.err
	case s := <-p.signals:
		p.signals <- s
	case <-p.hangup:
	}
	var none T
	return none, errSignalled
}

// hold opens the target and compares it with the device, tells the parent, and
// waits for the word to go.
func (p *process) hold(ctx context.Context, open Opener) error {
	err := p.prepare(ctx, open)
	if err != nil {
		return err
	}
	p.say(report{Prepared: true})
	word := make(chan error, 1)
	go func() {
		var g goAhead
		word <- p.orders.Decode(&g)
	}()
	select {
	case err = <-word:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err == nil {
		return nil
	}
	if p.target != nil {
		_ = p.target.Close()
	}
	return fmt.Errorf("%w: %w", errAbandoned, err)
}

// errAbandoned is the end of a process that was prepared in vain.
var errAbandoned = errors.New("not needed any more")

func (p *process) prepare(ctx context.Context, open Opener) error {
	info, err := p.client.Info(ctx, p.job.ID)
	if err != nil {
		return err
	}
	target, err := open(p.job.Config)
	if errors.Is(err, syscall.EBUSY) {
		return nil // its present server has it to itself: later
	}
	if err != nil {
		return err
	}
	d, err := match(ctx, p.client, info, p.job.Config, target)
	if err == nil && d.params.Basic != nil {
		err = d.fits()
	}
	if err != nil {
		return errors.Join(err, target.Close())
	}
	p.target = target
	return nil
}

// openTarget opens the target, if that has not been done. In a recovery the dead
// server's rings may still be letting go of a backing that has one user only.
func (p *process) openTarget(ctx context.Context, open Opener) (target Target, err error) {
	if p.target != nil {
		return p.target, nil
	}
	if p.job.Action != ActionRecover {
		return open(p.job.Config)
	}
	err = retryBusy(ctx, func() error {
		target, err = open(p.job.Config)
		return err
	})
	return target, err
}
