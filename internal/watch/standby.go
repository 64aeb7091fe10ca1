package watch

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ublk/internal/sysfs"
	"ublk/server"
)

// pool has one server ready for the next crash, and bounds how many are started
// at a time when one is not enough.
type pool struct {
	trouble func(error)
	slots   chan struct{}
	want    chan struct{} // a new standby server is to be started

	mu     sync.Mutex
	ready  *server.StandbyServer
	handed map[int]bool // pids that serve a device
}

func newPool(trouble func(error)) *pool {
	return &pool{trouble: trouble, slots: make(chan struct{}, max(2*runtime.NumCPU(), 4)), want: make(chan struct{}, 1), handed: map[int]bool{}}
}

// run keeps a server standing by until ctx ends.
func (p *pool) run(ctx context.Context) {
	defer func() {
		if s := p.take(); s != nil {
			_ = s.Close()
		}
	}()
	for pause := time.Second; ; {
		s, err := server.Standby(ctx)
		if err != nil {
			if ctx.Err() == nil {
				p.trouble(err)
			}
		} else {
			pause = time.Second
			p.mu.Lock()
			p.ready = s
			p.mu.Unlock()
			go p.reap(ctx, s)
		}
		retry := (<-chan time.Time)(nil)
		if err != nil {
			retry = time.After(pause)
			pause = min(2*pause, time.Minute)
		}
		select {
		case <-p.want:
		case <-retry:
		case <-ctx.Done():
			return
		}
	}
}

// take returns the server that stands by; nil if there is none. The caller asks
// for another one with refill when there is time.
func (p *pool) take() *server.StandbyServer {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.ready
	p.ready = nil
	return s
}

func (p *pool) refill() {
	select {
	case p.want <- struct{}{}:
	default:
	}
}

// serves says that a server has its device: how it ends is now the business of
// that device's watch.
func (p *pool) serves(pid int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.handed[pid] = true
}

// reap waits for the end of a server that stood by. One that ends without ever
// having been taken is replaced.
func (p *pool) reap(ctx context.Context, s *server.StandbyServer) {
	pid := s.PID()
	handle, err := sysfs.OpenPIDFD(pid)
	if err != nil {
		return
	}
	defer handle.Close()
	if handle.Wait(ctx) != nil {
		return
	}
	p.mu.Lock()
	idle, serves := p.ready == s, p.handed[pid]
	delete(p.handed, pid)
	if idle {
		p.ready = nil
	}
	p.mu.Unlock()
	if !serves {
		collect(pid)
	}
	if idle {
		_ = s.Close()
		p.trouble(errors.New("the server that stood by has died"))
		p.refill()
	}
}

// collect ends the zombie of a child of ours; false if it is none.
func collect(pid int) (unix.WaitStatus, bool) {
	var status unix.WaitStatus
	got, err := unix.Wait4(pid, &status, unix.WNOHANG, nil)
	return status, err == nil && got == pid
}

// collectLater does so when a process has ended that may be one.
func (p *pool) collectLater(ctx context.Context, pid int) {
	handle, err := sysfs.OpenPIDFD(pid)
	if err != nil {
		return
	}
	go func() {
		defer handle.Close()
		if handle.Wait(ctx) == nil {
			collect(pid)
		}
	}()
}

// spawn starts a server in the ordinary way, with few others at the same time.
func (p *pool) spawn(ctx context.Context, job server.Job) (*server.Started, error) {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-time.After(time.Second): // those in the slots may wait for this very device
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return server.Spawn(ctx, job)
}
