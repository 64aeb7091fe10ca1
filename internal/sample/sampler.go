// Package sample looks at ublk devices for `ublk top` and `ublk stat`: it is
// package tui's Sampler. It asks the driver nothing that can hang, never opens a
// device, and reads every file that a wedged device can hold up on a goroutine
// that can be given up.
package sample

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"sync"
	"time"

	"ublk/ctrl"
	"ublk/internal/rundir"
	"ublk/internal/sysfs"
	"ublk/tui"
)

// Driver is what a monitor may ask: *ctrl.Client.
type Driver interface {
	Info(ctx context.Context, id int) (ctrl.DevInfo, error)
}

// Config is what a Sampler looks at.
type Config struct {
	FS       *sysfs.FS
	State    rundir.Root
	Driver   Driver           // nil where the driver does not talk to us
	Only     []int            // devices to look at; none is all
	Patience time.Duration    // for one device's answers; 0 is defaultPatience
	Now      func() time.Time // nil is time.Now
}

const (
	defaultPatience = 500 * time.Millisecond
	// coldPatience is how much longer the first answer of all may take.
	coldPatience = 4
	// stallAfter is how long a device may have requests and complete none before
	// it is taken to hang.
	stallAfter = 3 * time.Second
)

// Sampler implements tui.Sampler. It is safe for concurrent use; calls wait for
// each other.
type Sampler struct {
	Config
	mu       sync.Mutex
	devices  map[int]*device
	debugfs  error // why its files cannot be read
	debugged bool  // they can: not asked again
	started  bool  // there was a sample
}

// New returns a sampler that has not looked yet.
func New(c Config) *Sampler {
	if c.Patience == 0 {
		c.Patience = defaultPatience
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Sampler{Config: c, devices: map[int]*device{}}
}

// Close closes what is open. The sampler cannot be used any more.
func (s *Sampler) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.devices {
		s.forget(id)
	}
}

// Sample looks at all devices. It takes at most as long as the patience for
// every device that has newly stopped answering, the first time for one of them
// some times as long.
func (s *Sampler) Sample(ctx context.Context) tui.Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.debugged {
		s.debugfs = s.FS.CheckDebugfs()
		s.debugged = s.debugfs == nil
	}
	ids, err := s.list()
	notes := s.notes(err)
	disks, _ := s.FS.DiskStats() // without it every device is as one without a disk
	now := s.Now()
	var free []*device
	for _, id := range ids {
		d := s.devices[id]
		if d == nil {
			d = newDevice(id, s)
			s.devices[id] = d
		}
		d.aim(disks, s.debugged)
		if d.answered() {
			free = append(free, d)
		}
	}
	first := s.Patience
	if !s.started {
		first, s.started = coldPatience*s.Patience, true
	}
	sweep(ctx, free, first, s.Patience)
	for id := range s.devices {
		if _, there := slices.BinarySearch(ids, id); !there {
			s.forget(id)
		}
	}
	snapshot := tui.Snapshot{Time: now, Notes: notes}
	for _, id := range ids {
		d := s.devices[id]
		if d.fresh && errors.Is(d.seen.err, ctrl.ErrNoDevice) {
			s.forget(id) // deleted between the two looks
			continue
		}
		snapshot.Devices = append(snapshot.Devices, d.describe(now))
	}
	return snapshot
}

// list returns the ids to look at, ascending.
func (s *Sampler) list() ([]int, error) {
	ids, err := s.FS.Devices()
	if len(s.Only) > 0 {
		ids = slices.DeleteFunc(ids, func(id int) bool { return !slices.Contains(s.Only, id) })
	}
	return ids, err
}

func (s *Sampler) forget(id int) {
	if d := s.devices[id]; d.answered() {
		d.probe.close()
	}
	delete(s.devices, id)
}

// notes says what cannot be seen, and why.
func (s *Sampler) notes(listing error) []string {
	var notes []string
	switch {
	case errors.Is(listing, fs.ErrNotExist):
		notes = append(notes, "the ublk driver is not loaded")
	case listing != nil:
		notes = append(notes, listing.Error())
	case s.Driver == nil:
		notes = append(notes, "the driver tells only root: no states, no servers")
	}
	switch {
	case listing != nil || s.debugfs == nil:
	case errors.Is(s.debugfs, fs.ErrPermission):
		notes = append(notes, "debugfs is for root: no tags")
	default:
		notes = append(notes, "debugfs is not mounted: tags of our own servers only")
	}
	return notes
}
