package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/internal/rundir"
	"ublk/internal/stats"
	"ublk/internal/units"
)

// process is the serving process: one device, from its making to its end.
type process struct {
	job     Job
	client  *ctrl.Client
	device  *Device
	dir     rundir.Dir
	log     *log.Logger
	control *control
	signals chan os.Signal // stop
	hangup  chan os.Signal // the parent has given up: do not start
	added   bool           // the device is ours to delete when starting fails

	orders   *json.Decoder // jobs, and the word to go
	reports  *os.File      // to the parent, unless in the foreground
	hardened []string      // warnings
	target   Target        // opened ahead of time, see hold

	published bool // the statistics page is ours
}

// ServeJob is the body of the hidden command: it reads its job, serves, and
// returns when the device is no longer served. In the foreground ready says
// that the device is LIVE, and errors are the caller's to print; in the
// background both go to the parent by the report descriptor.
func ServeJob(open Opener, ready func(Job, *Started)) error {
	p := &process{
		log: log.New(os.Stderr, "", log.LstdFlags|log.Lmsgprefix), signals: make(chan os.Signal, 2), hangup: make(chan os.Signal, 1),
		orders: json.NewDecoder(os.NewFile(jobFD, "job")),
	}
	if err := p.orders.Decode(&p.job); err != nil {
		return fmt.Errorf("job: %w", err)
	}
	unix.CloseOnExec(jobFD)
	if !p.job.Foreground {
		p.reports = os.NewFile(reportFD, "report")
		unix.CloseOnExec(reportFD)
	}
	signal.Notify(p.signals, syscall.SIGTERM, syscall.SIGINT)
	signal.Notify(p.hangup, syscall.SIGHUP)
	signal.Ignore(syscall.SIGPIPE)
	p.hardened = harden(p.job)
	standby := p.job.Action == ActionStandby
	if standby {
		if taken, err := p.standBy(); !taken {
			return err
		}
	}
	started, err := p.start(open)
	if errors.Is(err, errAbandoned) {
		return nil
	}
	if err != nil {
		p.say(report{Error: toWire(err)})
		return err
	}
	if !standby {
		if err := settle(); err != nil {
			started.Warnings = append(started.Warnings, fmt.Sprintf("program: %v", err))
		}
	}
	p.log.Printf("device %d: LIVE, %s, queues %d, depth %d, data %s", started.ID, p.job.Config.Type, started.Queues, started.Depth, started.Mode)
	for _, w := range started.Warnings {
		p.log.Printf("warning: %s", w)
	}
	if p.job.Foreground {
		ready(p.job, started)
		return p.serve()
	}
	p.say(report{Started: started})
	_ = p.reports.Close()
	return p.serve()
}

// say tells the parent, if there is one.
func (p *process) say(r report) {
	if !p.job.Foreground {
		_ = json.NewEncoder(p.reports).Encode(r)
	}
}

// start brings the device up, and on error leaves things as they were.
func (p *process) start(open Opener) (*Started, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	starting := make(chan struct{})
	defer close(starting)
	go func() { // a signal now means: do not start
		select {
		case s := <-p.signals:
			cancel()
			p.signals <- s
		case <-p.hangup:
			cancel()
		case <-starting:
		}
	}()
	if err := p.connect(); err != nil {
		return nil, err
	}
	if p.job.Hold {
		if err := p.hold(ctx, open); err != nil {
			return nil, err
		}
	}
	ctx, cancel = context.WithTimeout(ctx, ctrl.DefaultTimeout)
	defer cancel()
	target, err := p.openTarget(ctx, open)
	if err != nil {
		return nil, err
	}
	if n, ok := target.(Noter); ok {
		p.job.Warnings = append(p.job.Warnings, n.Notes()...)
	}
	if err := p.create(ctx, target); err != nil {
		return nil, errors.Join(err, target.Close(), p.undo())
	}
	if err := p.goLive(ctx); err != nil {
		_ = p.device.Close()
		return nil, errors.Join(err, p.undo())
	}
	info := p.device.Info()
	s := &Started{
		ID: info.ID, PID: os.Getpid(), Queues: info.Queues, Depth: info.Depth,
		Path: p.device.Path(), Mode: p.device.Mode().String(), Warnings: append(p.hardened, p.job.Warnings...),
		Accepted: p.device.accepted, Live: p.device.live,
	}
	return s, nil
}

// connect opens the way to the driver, once.
func (p *process) connect() (err error) {
	if p.client == nil {
		p.client, err = ctrl.Open()
	}
	return err
}

// create makes the device, or attaches to the one that is there.
func (p *process) create(ctx context.Context, target Target) error {
	if p.job.Action != ActionAdd {
		p.dir = rundir.Default().Dir(p.job.ID)
		if p.job.Action == ActionRecover {
			if err := awaitRecoverable(ctx, p.client, p.job.ID); err != nil {
				return err
			}
		}
		var err error
		p.device, err = Attach(ctx, p.client, p.job.ID, p.job.Config, target)
		return err
	}
	d, warnings, err := Create(ctx, p.client, p.job, target)
	if err != nil {
		return err
	}
	p.device, p.added = d, true
	p.dir = rundir.Default().Dir(d.info.ID)
	p.job.Warnings = append(p.job.Warnings, warnings...)
	if p.job.Log == "" {
		return nil
	}
	return p.dir.KeepLog(p.job.Log)
}

// goLive publishes statistics and control socket and starts the device.
func (p *process) goLive(ctx context.Context) error {
	if !p.job.Config.NoStats {
		if err := p.publish(); err != nil {
			return err
		}
	}
	if err := p.device.Start(ctx); err != nil {
		return err
	}
	var err error
	p.control, err = listenControl(p.dir, p.device, p.log)
	return err
}

// publish starts a new statistics page; the dead server's stays beside it.
func (p *process) publish() error {
	if err := p.dir.Create(); err != nil {
		return err
	}
	if old, err := stats.Open(p.dir.Stats()); err == nil {
		pid := old.PID()
		_ = old.Close()
		if err := p.dir.RotateStats(pid); err != nil {
			return err
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		if err := os.Remove(p.dir.Stats()); err != nil {
			return err
		}
	}
	p.published = true
	return p.device.Publish(p.dir.Stats())
}

// unpublish removes the page of a server that never served: what the one before
// left is what people will want to see.
func (p *process) unpublish() error {
	if !p.published {
		return nil
	}
	return os.Remove(p.dir.Stats())
}

// undo deletes a device that was added and could not be started.
func (p *process) undo() error {
	if !p.added {
		return p.unpublish()
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
	defer cancel()
	err := p.client.Stop(ctx, p.device.info.ID)
	if err == nil {
		err = p.remove(func() error { return p.device.Delete(ctx) })
	}
	if err != nil {
		return fmt.Errorf("device %d: %w: %w", p.device.info.ID, ErrLeft, err)
	}
	return nil
}

// remove deletes the device and its state folder, under the lock of its number:
// the next device of that number has a folder of its own there. Whoever holds
// the lock now may wait for this process, so it is only tried.
func (p *process) remove(del func() error) error {
	if lock, err := rundir.Default().TryLock(p.device.info.ID); err == nil {
		defer lock.Unlock()
	}
	if err := del(); err != nil {
		return err
	}
	return p.dir.Remove()
}

// ErrLeft is a device that could not be started, nor deleted again.
var ErrLeft = errors.New("it could not be deleted again")

// serve waits for the end: by our own signal, by STOP or QUIESCE from outside,
// or because a queue gave up.
func (p *process) serve() error {
	select {
	case <-p.device.Done():
		return p.ended()
	case s := <-p.signals:
		return p.stop(s)
	}
}

// ended follows a device that was taken from us. Nothing is sent to the driver:
// whoever stopped or quiesced it knows what is next.
func (p *process) ended() error {
	err := p.device.Wait()
	if err != nil {
		// The kernel must see this server die, whole and now: the other queues
		// still serve a device that has lost one.
		p.log.Printf("device %d: %v", p.device.info.ID, err)
		return err
	}
	p.log.Printf("device %d: stopped or quiesced from outside", p.device.info.ID)
	return errors.Join(p.control.close(), p.device.Close())
}

// Create adds a device as job says and remembers its configuration. The id and
// the name belong to it when this returns; its state folder replaces one that a
// former device of that id left.
func Create(ctx context.Context, client *ctrl.Client, job Job, target Target) (*Device, []string, error) {
	have, err := client.Features(ctx)
	if err != nil {
		return nil, nil, err
	}
	plan, err := job.Config.Plan(target, have)
	if err != nil {
		return nil, nil, err
	}
	root := rundir.Default()
	if name := job.Config.Name; name != "" {
		claim, err := root.ClaimName(ctx, name)
		if err != nil {
			return nil, nil, err
		}
		defer claim.Unlock()
	}
	plan.Add.ID, plan.Add.ServerFlags = job.ID, rundir.NewToken()
	d, err := Add(ctx, client, plan, target)
	if err != nil {
		return nil, nil, err
	}
	if err := remember(ctx, root, d, plan); err != nil {
		return nil, nil, errors.Join(err, root.Dir(d.info.ID).Remove(), d.Delete(ctx)) // the folder is ours as long as the number is
	}
	return d, plan.granted(&d.info), nil
}

// remember writes the state folder that a recovery starts from, once whoever
// deleted the last device of that number has removed that one's.
func remember(ctx context.Context, root rundir.Root, d *Device, plan Plan) error {
	lock, err := root.Lock(ctx, d.info.ID)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	dir := root.Dir(d.info.ID)
	if err := dir.Remove(); err != nil {
		return err
	}
	if err := dir.Create(); err != nil {
		return err
	}
	return writeConfig(dir, d.info.ServerFlags, plan.Config)
}

// granted says what the driver made less of the plan.
func (p *Plan) granted(info *ctrl.DevInfo) (warnings []string) {
	if info.Queues < p.Add.Queues {
		warnings = append(warnings, fmt.Sprintf("%s instead of %d: the driver allows one for each possible CPU", units.Counted(info.Queues, "queue"), p.Add.Queues))
	}
	if dropped := ctrl.Features(p.Add.Flags &^ uint64(info.Flags)); dropped != 0 {
		warnings = append(warnings, fmt.Sprintf("the driver cleared %v", dropped.Names()))
	}
	if info.MaxIOBytes < p.Add.MaxIOBytes {
		warnings = append(warnings, fmt.Sprintf("largest request %d bytes instead of %d", info.MaxIOBytes, p.Add.MaxIOBytes))
	}
	return warnings
}

// Remembered is the configuration of device id as its state folder has it, if
// the folder belongs to the device that info describes.
func Remembered(info ctrl.DevInfo) (Config, error) {
	dir := rundir.Default().Dir(info.ID)
	stored, err := dir.ReadConfig()
	if err != nil {
		return Config{}, err
	}
	boot, err := rundir.BootID()
	if err != nil {
		return Config{}, err
	}
	if err := stored.Check(info.ID, info.ServerFlags, boot); err != nil {
		return Config{}, fmt.Errorf("%s: %w", filepath.Clean(dir.Config()), err)
	}
	var cfg Config
	if err := json.Unmarshal(stored.Body, &cfg); err != nil {
		return Config{}, fmt.Errorf("%s: %w", dir.Config(), err)
	}
	return cfg, nil
}
