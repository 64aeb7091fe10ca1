package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/internal/stats"
	"ublk/internal/uapi"
)

// ErrLive is the error of Attach to a device that somebody serves.
var ErrLive = errors.New("the device has a server")

// SecondServerError is a kernel that takes no second server for a device that
// was started and stopped; its way out is to delete the device and add it again.
// It matches errors.ErrUnsupported.
type SecondServerError struct {
	Dev int
	Err error // of the first fetch
}

func (e *SecondServerError) Error() string {
	return fmt.Sprintf("device %d: this kernel takes no new server for a device that was started and stopped: %v", e.Dev, e.Err)
}

// Unwrap returns the fetch's error.
func (e *SecondServerError) Unwrap() error { return e.Err }

// Is matches errors.ErrUnsupported.
func (e *SecondServerError) Is(target error) bool { return target == errors.ErrUnsupported }

// Device is a ublk device served by this process. Its methods may be called
// from any goroutine but the queues'.
type Device struct {
	client *ctrl.Client
	target Target
	cfg    Config
	mode   DataMode
	info   ctrl.DevInfo
	params ctrl.Params
	page   *stats.Writer

	accepted int64 // when START_USER_RECOVERY was, CLOCK_MONOTONIC ns; 0 without recovery
	live     int64 // when the device became LIVE, likewise

	char    int // /dev/ublkcN, -1 while closed
	queues  []*Queue
	left    chan error    // one a queue: it serves no more
	empty   chan struct{} // closed: every queue has left
	release chan struct{} // closed: queues tear down and end their threads
	closed  chan error    // one a queue: torn down
	done    chan struct{} // closed: Wait returns
	err     error         // of Wait, written before done is closed
	once    sync.Once     // of Close
	freed   error         // of Close
}

// Add makes a device by plan (ADD_DEV, SET_PARAMS) for target, without starting
// it. On error there is no device, and the target is still the caller's.
func Add(ctx context.Context, client *ctrl.Client, plan Plan, target Target) (*Device, error) {
	info, err := client.Add(ctx, plan.Add)
	if err != nil {
		return nil, err
	}
	d := &Device{client: client, target: target, cfg: plan.Config, mode: plan.Mode, info: info, params: plan.Params, char: -1}
	if info.Unprivileged() {
		if err := awaitHandover(ctx, info.ID); err != nil {
			return nil, err
		}
	}
	if err := d.setParams(ctx); err != nil {
		return nil, errors.Join(err, client.Del(context.WithoutCancel(ctx), info.ID))
	}
	return d, nil
}

// setParams derives the largest request from the buffer size that the driver
// granted.
func (d *Device) setParams(ctx context.Context) error {
	basic := *d.params.Basic
	basic.MaxSectors = d.info.MaxIOBytes / ctrl.SectorSize
	d.params.Basic = &basic
	return d.client.SetParams(ctx, d.info.ID, d.params)
}

// Attach prepares to serve a device that exists and has no server: one never
// started, one that was stopped, or one that waits for recovery. Geometry and
// flags are the device's; cfg gives the rest.
func Attach(ctx context.Context, client *ctrl.Client, id int, cfg Config, target Target) (*Device, error) {
	info, err := client.Info(ctx, id)
	if err != nil {
		return nil, err
	}
	if info.State == ctrl.Live {
		return nil, fmt.Errorf("device %d: %w: process %d", id, ErrLive, info.ServerPID)
	}
	d, err := match(ctx, client, info, cfg, target)
	if err != nil {
		return nil, err
	}
	if d.params.Basic == nil {
		if d.params, err = d.cfg.params(target); err != nil {
			return nil, err
		}
		if err := d.setParams(ctx); err != nil {
			return nil, err
		}
	}
	return d, d.fits()
}

// match puts target behind the device that info describes, if its data mode
// allows it. The parameters are the driver's.
func match(ctx context.Context, client *ctrl.Client, info ctrl.DevInfo, cfg Config, target Target) (*Device, error) {
	cfg = cfg.withDefaults()
	d := &Device{client: client, target: target, cfg: cfg, info: info, char: -1}
	if d.mode = ModeOf(info.Flags); d.mode == DataUserCopy && cfg.Data == DataNone {
		d.mode = DataNone
	}
	if !slices.Contains(modesOf(target), d.mode) {
		return nil, fmt.Errorf("device %d was added for data mode %s: this target has only %s", info.ID, d.mode, joinModes(modesOf(target)))
	}
	d.cfg.Batch = info.Flags.Has(uapi.FlagBatchIO)
	var err error
	d.params, err = client.Params(ctx, info.ID)
	return d, err
}

// fits refuses a target that is smaller than the device, or read-only behind a
// writable one: its clients would meet errors or, worse, another disk.
func (d *Device) fits() error {
	have, want := d.target.Params().Basic, d.params.Basic
	switch {
	case have.DevSectors < want.DevSectors:
		return fmt.Errorf("device %d has %d sectors, the target %d", d.info.ID, want.DevSectors, have.DevSectors)
	case have.LogicalBlockShift > want.LogicalBlockShift:
		return fmt.Errorf("device %d has blocks of %d bytes, the target %d", d.info.ID, 1<<want.LogicalBlockShift, 1<<have.LogicalBlockShift)
	case have.ReadOnly && !want.ReadOnly:
		return fmt.Errorf("device %d is writable, the target is not", d.info.ID)
	}
	return nil
}

// Info is the device as the driver described it when it was added or attached.
func (d *Device) Info() ctrl.DevInfo { return d.info }

// Params are the device's parameters.
func (d *Device) Params() ctrl.Params { return d.params }

// Mode is how data moves.
func (d *Device) Mode() DataMode { return d.mode }

// Path is the block device.
func (d *Device) Path() string { return ctrl.BlockPath(d.info.ID) }

// Publish makes the queues write their statistics to a new page at path. Call
// it before Start.
func (d *Device) Publish(path string) error {
	page, err := stats.Create(path, d.info.ID, d.info.Queues, d.info.Depth)
	d.page = page
	return err
}

// Start opens the char device, starts the queues and makes the device LIVE, by
// START_DEV or, where it waits for recovery, END_USER_RECOVERY. It returns when
// I/O is served, also if ctx ends while the driver is at it. On error everything
// is closed, the device is as before, and only Close may follow.
func (d *Device) Start(ctx context.Context) error {
	recovering := d.info.State == ctrl.Quiesced || d.info.State == ctrl.FailIO
	if recovering {
		if err := d.prime(ctx); err != nil {
			return err
		}
		if err := d.startRecovery(ctx); err != nil {
			return err
		}
		d.accepted = stats.Now()
	}
	if err := d.openChar(ctx); err != nil {
		return err
	}
	err := d.startQueues()
	if !recovering && (errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EINVAL)) {
		// Seen on 6.12: the queues of a device that had a server keep their tags.
		err = &SecondServerError{Dev: d.info.ID, Err: err}
	}
	if err == nil {
		err = d.publish(ctx, recovering)
	}
	if err != nil {
		_ = d.Close()
		return err
	}
	d.live = stats.Now()
	d.info.State, d.info.ServerPID = ctrl.Live, os.Getpid()
	return nil
}

// publish asks the driver to make the device LIVE. It waits for the fetches of
// all tags, so a queue that fails meanwhile ends it. The end of ctx does not:
// the command cannot be taken back, and 6.12 reads the partition table in it, so
// that a server that left now would hang the device for good.
func (d *Device) publish(ctx context.Context, recovering bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ctrl.DefaultTimeout)
	defer cancel()
	go func() {
		select {
		case <-d.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	begin := d.client.Start
	if recovering {
		begin = d.client.EndRecovery
	}
	err := begin(ctx, d.info.ID, os.Getpid())
	if err == nil {
		return nil
	}
	select {
	case <-d.done:
	default:
		return err
	}
	if d.err != nil {
		return d.err
	}
	return fmt.Errorf("device %d: stopped while it was being started", d.info.ID)
}

// openChar opens the char device. The slot of a server that died is freed by a
// worker of the kernel's some time after its last descriptor is closed, and
// nothing announces it.
func (d *Device) openChar(ctx context.Context) error {
	path := ctrl.CharPath(d.info.ID)
	return retryBusy(ctx, func() error {
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: path, Err: err}
		}
		d.char = fd
		return nil
	})
}

// retryBusy repeats try, at growing intervals, while it answers EBUSY: the
// release of a char device cannot be waited for in any other way.
func retryBusy(ctx context.Context, try func() error) error {
	for begin := time.Now(); ; {
		err := try()
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (%w)", err, ctx.Err())
		case <-time.After(nextLook(begin)):
		}
	}
}

// startQueues starts every queue and returns when each has fetched all tags.
func (d *Device) startQueues() error {
	n := d.info.Queues
	d.left, d.closed = make(chan error, n), make(chan error, n)
	d.empty, d.release, d.done = make(chan struct{}), make(chan struct{}), make(chan struct{})
	opened := make(chan error, n)
	for i := range n {
		q := &Queue{dev: d, id: i, mode: d.mode, stats: d.page.Queue(i), clk: stats.NewClock(), async: async{event: -1}}
		d.queues = append(d.queues, q)
		go q.run(opened)
	}
	var errs []error
	for range n {
		errs = append(errs, <-opened)
	}
	go d.supervise()
	return errors.Join(errs...)
}

// supervise waits for the queues to leave. The first that leaves with an error
// ends Wait at once, with the others still serving: the process must go, so
// that recovery can act.
func (d *Device) supervise() {
	var err error
	for range d.queues {
		if qerr := <-d.left; qerr != nil && err == nil {
			err = qerr
			d.err = err
			close(d.done)
		}
	}
	close(d.empty)
	if err == nil {
		close(d.done)
	}
}

// Wait returns when the device is no longer served: nil after it was stopped or
// quiesced, by anyone, else the reason why a queue gave up.
func (d *Device) Wait() error {
	<-d.done
	return d.err
}

// Done is closed when Wait would return.
func (d *Device) Done() <-chan struct{} { return d.done }

// Stop stops the device (STOP_DEV), serving what is in flight, and waits until
// the queues have ended.
func (d *Device) Stop(ctx context.Context) error {
	if err := d.client.Stop(ctx, d.info.ID); err != nil {
		return err
	}
	select {
	case <-d.done:
		return d.err
	case <-ctx.Done():
		return fmt.Errorf("device %d: stop: the queues have not ended: %w", d.info.ID, ctx.Err())
	}
}

// Close ends serving and frees everything but the device itself. On a device
// that is still LIVE that is a server's death: Stop first. The target is closed.
func (d *Device) Close() error {
	d.once.Do(func() {
		var errs []error
		for _, q := range d.queues {
			q.async.quit.Store(true)
			q.async.wake()
		}
		if d.queues != nil {
			// All queues must have left before the first thread ends: to the
			// driver the end of one is the death of all.
			<-d.empty
			close(d.release)
			for range d.queues {
				errs = append(errs, <-d.closed)
			}
		}
		if d.char >= 0 {
			errs = append(errs, unix.Close(d.char))
			d.char = -1
		}
		errs = append(errs, d.page.Close(), d.target.Close())
		d.freed = errors.Join(errs...)
	})
	return d.freed
}

// Delete removes the device (DEL_DEV). Everything of this process that refers
// to it must be closed: the command would wait for it.
func (d *Device) Delete(ctx context.Context) error { return d.client.Del(ctx, d.info.ID) }

// Resize changes the capacity while the device is LIVE: the target first, then
// UPDATE_SIZE. bytes must be a multiple of the logical block size.
func (d *Device) Resize(ctx context.Context, bytes int64) error {
	r, ok := d.target.(Resizer)
	if !ok {
		return fmt.Errorf("device %d: target %s cannot be resized: %w", d.info.ID, d.cfg.Type, errors.ErrUnsupported)
	}
	if block := int64(1) << d.params.Basic.LogicalBlockShift; bytes <= 0 || bytes%block != 0 {
		return fmt.Errorf("device %d: size %d is not a multiple of the block size %d", d.info.ID, bytes, block)
	}
	if err := r.Resize(bytes); err != nil {
		return err
	}
	return d.client.UpdateSize(ctx, d.info.ID, uint64(bytes)/ctrl.SectorSize)
}

// cpus are those that the thread of a queue is restricted to; none: no limit.
func (d *Device) cpus(queue int) ([]int, error) {
	if d.cfg.Affinity {
		return d.client.Affinity(context.Background(), d.info.ID, queue)
	}
	return d.cfg.CPUs, nil
}
