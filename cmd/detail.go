package cmd

import (
	"context"
	"errors"
	"io/fs"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/internal/stats"
	"ublk/internal/sysfs"
	"ublk/internal/table"
)

// detail is what info knows of a device beyond its row.
type detail struct {
	Params       *ctrl.Params
	ParamsError  error
	Affinity     [][]int // by queue
	Users        []sysfs.User
	UsersPartial bool // some processes could not be looked at
	UsersError   error
	Stat         *sysfs.Stat
	Inflight     *sysfs.Inflight
	Crash        *crashView
	Page         *pageView // what the server publishes, or published before it died
	Folder       string    // state folder, "" if there is none
}

// pageView is a statistics page, read.
type pageView struct {
	PID    int
	Dead   bool // the server that wrote it is gone
	Count  [stats.Kinds]stats.Counters
	Hist   [3]stats.Histogram // read, write, other
	Held   []heldTag
	Torn   bool // the server died, or is stuck, inside a batch
	Queues int
}

// heldTag is a request that the server holds, or held when it died.
type heldTag struct {
	Queue  int     `json:"queue"`
	Tag    int     `json:"tag"`
	Op     string  `json:"op"`
	Sector uint64  `json:"sector"`
	Bytes  uint32  `json:"bytes"`
	Age    float64 `json:"age"` // seconds; of a dead server, until its queue's last batch
}

// examine completes a row. What fails is left out; nothing here can hang for
// longer than a few seconds.
func (a *app) examine(ctx context.Context, client *ctrl.Client, r *row) {
	d := &detail{}
	r.Detail = d
	if client != nil && r.Info != nil {
		limited, cancel := context.WithTimeout(ctx, a.times.params)
		params, err := client.Params(limited, r.ID)
		cancel()
		if d.ParamsError = err; err == nil {
			d.Params = &params
		}
		for queue := range r.Info.Queues {
			cpus, err := client.Affinity(ctx, r.ID, queue)
			if err != nil {
				break
			}
			d.Affinity = append(d.Affinity, cpus)
		}
	}
	if r.Server != nil {
		if process, err := within(func() (sysfs.Process, error) { return a.fs.Process(r.Server.PID) }); err == nil {
			r.Server = &process
		}
	}
	type usersResult struct {
		users   []sysfs.User
		partial bool
	}
	found, err := within(func() (usersResult, error) {
		users, partial, err := a.fs.Users(r.ID)
		return usersResult{users, partial}, err
	})
	d.Users, d.UsersPartial, d.UsersError = found.users, found.partial, err
	if r.Disk != nil {
		if stat, err := a.fs.Stat(r.ID); err == nil {
			d.Stat = &stat
		}
		if inflight, err := a.fs.Inflight(r.ID); err == nil {
			d.Inflight = &inflight
		}
	}
	a.examineState(r)
}

// examineState reads the state folder of a device of ours.
func (a *app) examineState(r *row) {
	if r.Config == nil {
		return
	}
	dir := a.state.Dir(r.ID)
	r.Detail.Folder = dir.Path
	page, err := readPage(dir.Stats())
	if errors.Is(err, fs.ErrNotExist) {
		if old, oldErr := dir.OldStats(); oldErr == nil && len(old) > 0 {
			page, err = readPage(old[0])
		}
	}
	if err == nil {
		page.Dead = r.Server == nil || r.Server.PID != page.PID
		r.Detail.Page = page
	}
	if r.Info.State != ctrl.Dead { // else it may have been stopped
		r.Detail.Crash = lastCrash(dir, r.Detail.Page)
	}
}

// readPage reads all queues of a statistics page.
func readPage(path string) (*pageView, error) {
	page, err := stats.Open(path)
	if err != nil {
		return nil, err
	}
	defer page.Close()
	view := &pageView{PID: page.PID(), Queues: page.Queues()}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return nil, err
	}
	for i := range page.Queues() {
		queue, err := page.Queue(i)
		if err != nil {
			return nil, err
		}
		view.Torn = view.Torn || queue.Torn
		for kind, c := range queue.Count {
			sum := &view.Count[kind]
			sum.IOs, sum.Bytes, sum.Errors, sum.TimeNS = sum.IOs+c.IOs, sum.Bytes+c.Bytes, sum.Errors+c.Errors, sum.TimeNS+c.TimeNS
		}
		for h := range queue.Hist {
			view.Hist[h].Add(&queue.Hist[h])
		}
		for _, t := range queue.Tags {
			view.Held = append(view.Held, heldTag{
				Queue: t.Queue, Tag: t.Tag, Op: t.Kind.String(), Sector: t.Sector, Bytes: t.Bytes,
				Age: time.Duration(now.Nano() - t.Since).Seconds(),
			})
		}
	}
	return view, nil
}

// detailColumns are the fields that info -J adds to those of list.
func detailColumns() []table.Column[row] {
	of := func(value func(*row, *detail) any) func(row) table.Value {
		return func(r row) table.Value {
			if r.Detail == nil {
				return table.Null()
			}
			if v := value(&r, r.Detail); v != nil {
				return table.Custom("", v)
			}
			return table.Null()
		}
	}
	return []table.Column[row]{
		{Name: "QUEUES-ASKED", Key: "queues_asked", Help: "queues that were asked for", Value: func(r row) table.Value {
			if r.Config == nil {
				return table.Null()
			}
			return table.Int(r.Config.Queues)
		}},
		{Name: "SERVER-FLAGS", Key: "server_flags", Help: "number that the server stored with the driver", Value: ofInfo(func(i *ctrl.DevInfo) table.Value {
			return table.String("0x" + strconv.FormatUint(i.ServerFlags, 16))
		})},
		{Name: "PARAMS", Key: "params", Help: "parameters by group", Value: of(func(_ *row, d *detail) any { return orNil(d.Params) })},
		{Name: "AFFINITY", Key: "affinity", Help: "CPUs of every queue", Value: of(func(_ *row, d *detail) any { return sliceOrNil(d.Affinity) })},
		{Name: "SERVER-PROCESS", Key: "server", Help: "the server's process", Value: of(func(r *row, _ *detail) any { return orNil(serverFields(r.Server)) })},
		{Name: "USERS", Key: "users", Help: "mounts, holders and openers", Value: of(func(_ *row, d *detail) any { return d.userFields() })},
		{Name: "COUNTERS", Key: "counters", Help: "what the block layer counted", Value: of(func(_ *row, d *detail) any { return orNil(d.counterFields()) })},
		{Name: "STATS", Key: "stats", Help: "what a server of ours publishes", Value: of(func(_ *row, d *detail) any { return orNil(d.Page.fields()) })},
		{Name: "CRASH", Key: "crash", Help: "how the last server died, and what it held", Value: of(func(_ *row, d *detail) any { return orNil(d.Crash) })},
		{Name: "STATE-FOLDER", Key: "state_folder", Help: "folder of a device of ours", Value: func(r row) table.Value {
			if r.Detail == nil {
				return table.Null()
			}
			return orNull(r.Detail.Folder)
		}},
	}
}

// orNil makes an untyped nil of a nil pointer.
func orNil[T any](p *T) any {
	if p == nil {
		return nil
	}
	return p
}

func sliceOrNil[T any](s []T) any {
	if s == nil {
		return nil
	}
	return s
}
