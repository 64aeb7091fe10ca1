// Package watch keeps devices alive: it learns of the death of a server at once
// and gives its device a new one.
//
// The kernel announces neither the death of a server nor that a device waits for
// another. So every device has a goroutine that waits on its server's pidfd;
// then the driver is asked, at growing intervals, until it has let go of the
// dead server. Devices that come and go are seen by uevents. Nothing is polled
// otherwise, but for a slow safety net and the search for hung servers.
package watch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"ublk/ctrl"
	"ublk/internal/rundir"
	"ublk/internal/sysfs"
	"ublk/internal/units"
)

// OnCrash is what becomes of a device whose server died.
type OnCrash string

// The choices. They are for devices of ours; see Options.Exec for others.
const (
	CrashRecover OnCrash = "recover" // a new server
	CrashStop    OnCrash = "stop"    // its I/O fails, the disk goes away
	CrashDelete  OnCrash = "delete"  // and the device
	CrashHold    OnCrash = "hold"    // nothing is done
)

// OnHang is what becomes of a server that answers no more.
type OnHang string

// The choices.
const (
	HangReport OnHang = "report"
	HangKill   OnHang = "kill" // and recover, if the device can be
)

// safetyNet is how often everything is looked at, whatever has been announced.
const safetyNet = time.Minute

// Options say how to watch.
type Options struct {
	OnCrash    OnCrash
	GiveUp     time.Duration // a device that cannot be recovered for so long is stopped; 0: never
	Burst      int           // so many crashes in a row are recovered from without delay
	OnHang     OnHang
	HangAfter  time.Duration // no request completes for so long; 0: nobody looks
	Exec       string        // shell command that recovers devices of other programs; "": they are reported
	Emit       func(Event)   // called by many goroutines; must not block
	Alive      func()        // called every AliveEvery while all is well; may be nil
	AliveEvery time.Duration
}

// Watcher watches all devices of a machine.
type Watcher struct {
	opts    Options
	client  *ctrl.Client
	machine *sysfs.FS
	state   rundir.Root
	pool    *pool

	mu      sync.Mutex
	devices map[int]*device
	wg      sync.WaitGroup // of their goroutines
	changed chan struct{}  // closed and replaced when a device becomes LIVE or goes
}

// New makes a watcher. The client must be one that can give commands up.
func New(client *ctrl.Client, o Options) *Watcher {
	w := &Watcher{
		opts: o, client: client, machine: sysfs.New("/"), state: rundir.Default(),
		devices: map[int]*device{}, changed: make(chan struct{}),
	}
	w.pool = newPool(func(err error) { w.trouble("standby server: %v", err) })
	return w
}

// Run watches until ctx ends. Devices that wait for a server when it begins are
// recovered as if their server had just died. The servers that it started live on.
func (w *Watcher) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer w.wg.Wait()
	defer cancel()
	uevents, err := sysfs.Uevents(ctx) // before the first look, to miss nothing
	if err != nil {
		return err
	}
	if err := w.scan(ctx); err != nil {
		return err
	}
	if w.opts.OnCrash == CrashRecover {
		w.wg.Go(func() { w.pool.run(ctx) })
	}
	if w.opts.HangAfter > 0 {
		w.wg.Go(func() { w.findHung(ctx) })
	}
	w.emit(Event{Kind: Ready, ID: -1, Text: units.Counted(w.count(), "device")})
	net := time.NewTicker(safetyNet)
	defer net.Stop()
	alive := make(<-chan time.Time)
	if w.opts.AliveEvery > 0 {
		t := time.NewTicker(w.opts.AliveEvery)
		defer t.Stop()
		alive = t.C
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-alive:
			w.opts.Alive()
		case <-net.C:
			if err := w.scan(ctx); err != nil {
				w.trouble("devices: %v", err)
			}
		case e, ok := <-uevents:
			if !ok {
				if ctx.Err() != nil {
					return nil
				}
				return errors.New("the kernel's messages about devices have ended")
			}
			w.handle(ctx, e)
		}
	}
}

// handle follows a message of the kernel.
func (w *Watcher) handle(ctx context.Context, e sysfs.Uevent) {
	switch {
	case e.Lost:
		if err := w.scan(ctx); err != nil {
			w.trouble("devices: %v", err)
		}
	case e.Subsystem == "ublk-char" && e.Action == "add":
		w.look(ctx, e.ID)
	case e.DevType != "partition":
		w.mu.Lock()
		d := w.devices[e.ID]
		w.mu.Unlock()
		if d != nil {
			d.poke()
		}
	}
}

// scan looks at all devices.
func (w *Watcher) scan(ctx context.Context) error {
	ids, err := w.machine.Devices()
	if errors.Is(err, fs.ErrNotExist) { // the driver was unloaded
		return nil
	}
	for _, id := range ids {
		w.look(ctx, id)
	}
	return err
}

// look starts to watch a device, or wakes who watches it.
func (w *Watcher) look(ctx context.Context, id int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if d := w.devices[id]; d != nil {
		d.poke()
		return
	}
	d := &device{w: w, id: id, kick: make(chan struct{}, 1), crashes: series{burst: w.opts.Burst}}
	w.devices[id] = d
	w.wg.Go(func() { d.run(ctx) })
}

// leave ends the watch over a device that is gone, unless it was just added anew.
func (w *Watcher) leave(d *device) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-d.kick:
		return false
	default:
	}
	delete(w.devices, d.id)
	return true
}

func (w *Watcher) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.devices)
}

// change wakes devices that wait for those below them.
func (w *Watcher) change() {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *Watcher) changes() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

func (w *Watcher) emit(e Event) {
	e.Time = time.Now()
	w.opts.Emit(e)
}

func (w *Watcher) trouble(format string, args ...any) {
	w.emit(Event{Kind: Trouble, ID: -1, Text: fmt.Sprintf(format, args...)})
}
