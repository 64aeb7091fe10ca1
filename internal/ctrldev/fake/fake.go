// Package fake is a ublk driver in memory: a ctrldev.Driver that answers as the
// kernel does, and the world around it (servers, openers of the block device),
// which a test moves by hand.
//
// What it models is the control plane: states, errnos and the order in which
// they are checked, flags that are cleared silently, clamps, parameter rules,
// path prefixes, and which command waits for what. It moves no data, and a
// release of the char device takes effect at once instead of by a worker. Its
// source is ublk_drv.c of v7.3 and v6.12; the tests of package ctrl hold it
// against both in a virtual machine, by one table.
package fake

import (
	"context"
	"sync"

	"golang.org/x/sys/unix"

	"ublk/internal/ctrldev"
	"ublk/internal/uapi"
)

// Kernel is the release whose driver is imitated.
type Kernel int

const (
	Linux7_3  Kernel = iota // as Debian builds 7.3.4: every feature but none cleared by configuration
	Linux6_12               // as Debian builds 6.12
)

// Features is the answer to GET_FEATURES.
func (k Kernel) Features() uint64 {
	if k == Linux6_12 {
		return 0x1fe
	}
	return 0x1fffff
}

// Options describe the kernel and the caller.
type Options struct {
	Kernel          Kernel
	Unprivileged    bool // the caller lacks CAP_SYS_ADMIN; see Become
	CPUs            int  // possible CPUs; 0 = 2
	MaxUnprivileged int  // module parameter ublks_max; 0 = 64
}

// Driver is the driver and all of its devices. Safe for concurrent use.
type Driver struct {
	opt Options

	mu      sync.Mutex
	changed chan struct{} // closed, and replaced, whenever a sleeper must look again
	moved   chan struct{} // the same for Wait: a command began, ended or fell asleep
	admin   bool
	devices map[uint32]*device // by id, until the last reference is gone
	adding  bool               // ublk_ctl_mutex is held
	exited  map[int]bool       // pids that are gone
	frozen  map[uint32]bool    // commands that hang: interruptibly or not
	faults  map[uint32][]unix.Errno
	inside  int // commands
	asleep  int // of these, since the last change
	history []ctrldev.Command
}

// New makes a driver without devices.
func New(o Options) *Driver {
	if o.CPUs == 0 {
		o.CPUs = 2
	}
	if o.MaxUnprivileged == 0 {
		o.MaxUnprivileged = 64
	}
	return &Driver{
		opt:     o,
		changed: make(chan struct{}),
		moved:   make(chan struct{}),
		admin:   !o.Unprivileged,
		devices: map[uint32]*device{},
		exited:  map[int]bool{},
		frozen:  map[uint32]bool{},
		faults:  map[uint32][]unix.Errno{},
	}
}

// Submit implements ctrldev.Driver. As with the real driver, a command that
// waits interruptibly ends with ctx, and one that does not is given up and goes
// on by itself.
func (d *Driver) Submit(ctx context.Context, c *ctrldev.Command) (int32, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	k := d.begin(ctx, c)
	go k.run()
	select {
	case <-k.done:
	case <-ctx.Done():
		select {
		case <-k.done:
		case <-k.stuck:
			return 0, ctx.Err()
		}
	}
	copy(c.Buf, k.mem[len(k.mem)-len(c.Buf):])
	switch {
	case k.errno == unix.EINTR && ctx.Err() != nil:
		return 0, ctx.Err()
	case k.errno != 0:
		return 0, k.errno
	}
	return k.res, nil
}

// Close implements ctrldev.Driver and does nothing: devices outlive those who
// command them, so one Driver serves any number of clients in turn.
func (d *Driver) Close() error { return nil }

// History lists the commands submitted so far, with their payloads as they went in.
func (d *Driver) History() []ctrldev.Command {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]ctrldev.Command(nil), d.history...)
}

// Forget empties the history.
func (d *Driver) Forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.history = nil
}

// Become changes who submits the commands from now on: a caller with
// CAP_SYS_ADMIN or one without.
func (d *Driver) Become(privileged bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.admin = privileged
}

// Freeze makes every command op hang before it has done anything, until
// Unfreeze: interruptibly (START_DEV) or as in disk removal, where only giving
// the command up helps.
func (d *Driver) Freeze(op uint32, interruptible bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.frozen[op] = interruptible
}

// Unfreeze lets the commands op go on.
func (d *Driver) Unfreeze(op uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.frozen, op)
	d.notify()
}

// Fail makes the next command op fail with errno and without any effect.
// Several calls queue up.
func (d *Driver) Fail(op uint32, errno unix.Errno) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.faults[op] = append(d.faults[op], errno)
}

// Wait returns when n commands are inside the driver and all of them sleep there,
// or when ctx ends.
func (d *Driver) Wait(ctx context.Context, n int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.inside != n || d.asleep != n {
		moved := d.moved
		d.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
		}
		d.mu.Lock()
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// notify wakes all that sleep on the driver's state. d.mu is held.
func (d *Driver) notify() {
	close(d.changed)
	d.changed = make(chan struct{})
	d.asleep = 0
	d.report()
}

// report wakes Wait. d.mu is held.
func (d *Driver) report() {
	close(d.moved)
	d.moved = make(chan struct{})
}

// has reports whether the kernel knows the command of that number.
func (d *Driver) has(nr uint32) bool {
	switch {
	case nr == 0x03 || nr == 0, nr > 0x09 && nr < 0x10:
		return false
	case d.opt.Kernel == Linux6_12:
		return nr <= uapi.CmdDelDevAsync&0xff
	}
	return nr <= uapi.CmdUnregBuf&0xff
}
