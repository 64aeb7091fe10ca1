// Package fault wraps another target and makes it slow and faulty, as told and
// the same way every time: delays, errors, short transfers of the backend,
// requests that are never answered, writes that a kill leaves half done, and a
// write cache that is lost when the server dies.
// All but the cache's being there can be changed while the disk is in use.
//
// A request that is stuck is held until the settings no longer ask for it. To
// the driver it is any request of a server that hangs: STOP_DEV and DEL_DEV
// wait for it, a server's death ends it, and a recovery sends it again.
package fault

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"sync"
	"sync/atomic"

	"ublk/ctrl"
	"ublk/server"
)

// Options say how a target starts out.
type Options struct {
	Settings      map[string]string // by name, as Settings lists them
	Seed          uint64            // of all that is left to chance
	VolatileCache bool              // keep writes in memory until a flush
}

// Disk is what the volatile cache needs of the wrapped target: access beside
// the queues. Sync returns when all that was written is on stable storage.
type Disk interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// Target is a target with faults. It owns the one that it wraps.
type Target struct {
	inner   server.Target // the disk
	serving server.Target // answers requests: inner, or the cache over it
	cache   *cache        // nil: none
	seed    uint64
	params  ctrl.Params
	plan    *atomic.Pointer[plan] // now in force

	mu     sync.Mutex // of control calls, and of queues
	queues map[*server.Queue]bool
}

// volatile is a Target over one whose content dies with its server.
type volatile struct {
	*Target
	why string
}

// Volatile implements server.Volatile.
func (v volatile) Volatile() string { return v.why }

// New wraps inner, which is closed with the result, or on error.
func New(inner server.Target, o Options) (server.Target, error) {
	t := &Target{inner: inner, serving: inner, seed: o.Seed, params: inner.Params(), plan: &atomic.Pointer[plan]{}, queues: map[*server.Queue]bool{}}
	err := t.open(o)
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	if v, ok := inner.(server.Volatile); ok {
		return volatile{t, v.Volatile()}, nil
	}
	return t, nil
}

func (t *Target) open(o Options) error {
	if o.VolatileCache {
		disk, ok := t.inner.(Disk)
		if !ok {
			return fmt.Errorf("the target has nothing that a volatile cache could be written out to: %w", errors.ErrUnsupported)
		}
		if err := t.openCache(disk); err != nil {
			return err
		}
	}
	p, err := compile(o.Settings)
	if err == nil {
		err = t.check(p)
	}
	t.plan.Store(p)
	return err
}

// openCache puts the cache between the disk and the requests. It holds no
// holes, so a disk with a cache has no discard.
func (t *Target) openCache(disk Disk) error {
	basic := *t.params.Basic
	basic.VolatileCache, basic.FUA = !basic.ReadOnly, !basic.ReadOnly
	t.params.Basic, t.params.Discard = &basic, nil
	block := 1 << basic.LogicalBlockShift
	c, err := newCache(disk, block, chance(t.seed), t.plan)
	if err != nil {
		return err
	}
	t.cache = c
	t.serving, err = server.FromBackend(t.cache, server.BackendConfig{
		Size: int64(basic.DevSectors) * ctrl.SectorSize, LogicalBlock: block, ReadOnly: basic.ReadOnly,
	})
	return err
}

// check refuses settings that would have no effect.
func (t *Target) check(p *plan) error {
	f, ok := t.serving.(server.FileTarget)
	ring := ok && len(f.Files()) > 0
	switch {
	case p.shortReads+p.shortWrites > 0 && !ring:
		return errors.New("short-reads, short-writes: the target does not use a file through the queue's ring")
	case p.torn > 0 && !ring && t.cache == nil:
		return errors.New("torn: the target has no volatile cache, and does not write to a file through the queue's ring")
	}
	return nil
}

// Params implements server.Target.
func (t *Target) Params() ctrl.Params { return t.params }

// Modes implements server.Moder: those of the wrapped target, but with a cache
// only those that bring the data to the server.
func (t *Target) Modes() []server.DataMode {
	if m, ok := t.serving.(server.Moder); ok {
		return m.Modes()
	}
	return []server.DataMode{server.DataCopy, server.DataUserCopy}
}

// Files implements server.FileTarget.
func (t *Target) Files() []int {
	if f, ok := t.serving.(server.FileTarget); ok {
		return f.Files()
	}
	return nil
}

// Notes implements server.Noter.
func (t *Target) Notes() []string {
	if n, ok := t.inner.(server.Noter); ok {
		return n.Notes()
	}
	return nil
}

// Resize implements server.Resizer as far as the wrapped target does.
func (t *Target) Resize(bytes int64) error {
	if r, ok := t.inner.(server.Resizer); ok {
		return r.Resize(bytes)
	}
	return fmt.Errorf("the target under the faults cannot be resized: %w", errors.ErrUnsupported)
}

// Close implements server.Target. A cache is written out: this is an orderly
// end, not a loss of power.
func (t *Target) Close() error {
	var err error
	if t.cache != nil {
		err = t.cache.close()
	}
	return errors.Join(err, t.inner.Close())
}

// Change is a change of settings, as Control reads it.
type Change struct {
	Clear bool              `json:"clear,omitempty"` // begin with no faults at all
	Set   map[string]string `json:"set,omitempty"`   // by name; "" is none
}

// Control implements server.Controller: it applies a Change, if all of it can
// be, to requests that arrive from now on, releases stuck requests that the
// settings no longer cover, and returns the settings in force.
func (t *Target) Control(body json.RawMessage) (json.RawMessage, error) {
	var c Change
	if err := json.Unmarshal(body, &c); err != nil {
		return nil, fmt.Errorf("change of settings: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	texts := map[string]string{}
	if !c.Clear {
		maps.Copy(texts, t.plan.Load().texts)
	}
	maps.Copy(texts, c.Set)
	p, err := compile(texts)
	if err == nil {
		err = t.check(p)
	}
	if err != nil {
		return nil, err
	}
	t.plan.Store(p)
	for q := range t.queues {
		q.Wake()
	}
	return json.Marshal(p.texts)
}
