package sample

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"ublk/ctrl"
	"ublk/internal/rundir"
	"ublk/internal/stats"
	"ublk/internal/sysfs"
	"ublk/internal/uapi"
	"ublk/tui"
)

// holders are who has which tags.
func holders(q tui.Queue) map[int]tui.Holder {
	h := map[int]tui.Holder{}
	for _, t := range q.Tags {
		h[t.Tag] = t.Holder
	}
	return h
}

func TestDetailForeign(t *testing.T) {
	m := newMachine(t)
	m.add(0, 2, 40)
	m.busy(0, 1, 40, 0, 9, 39)
	m.inDriver(0, 3)
	m.disks(map[int]disk{0: {inFlight: 4}})
	// Tag 9 is allocated and not started.
	m.write("sys/kernel/debug/block/ublkb0/hctx1/busy",
		"0000000000000001 {.op=READ, .cmd_flags=, .rq_flags=, .state=in_flight, .tag=0, .internal_tag=-1}\n"+
			"0000000000000027 {.op=FLUSH, .cmd_flags=, .rq_flags=, .state=in_flight, .tag=39, .internal_tag=-1}\n")
	s := m.sampler()
	s.Sample(t.Context())
	far := s.Detail(t.Context(), 0, -1)
	if len(far.Queues) != 2 || far.Queues[0].InFlight != 0 || far.Queues[1].InFlight != 3 || far.Queues[1].Oldest != tui.Unknown {
		t.Fatalf("detail %+v", far)
	}
	near := s.Detail(t.Context(), 0, 1).Queues[1]
	want := []tui.Tag{
		{Tag: 0, Op: "READ", Age: tui.Unknown, Holder: tui.InDriver}, {Tag: 9, Age: tui.Unknown, Holder: tui.Allocated},
		{Tag: 39, Op: "FLUSH", Age: tui.Unknown, Holder: tui.InDriver},
	}
	if !slices.Equal(near.Tags, want) || near.CPUs != "1" || near.TID != 0 || near.Rates != nil {
		t.Errorf("queue 1 %+v", near)
	}
}

// TestDetailParked reads what the kernels showed of requests that came after a
// server's death.
func TestDetailParked(t *testing.T) {
	for _, kernel := range []string{"6.12", "7.3"} {
		m := newMachine(t)
		m.root = "../sysfs/testdata/" + kernel + "/parked"
		stat, err := sysfs.New(m.root).Stat(0)
		if err != nil {
			t.Fatal(err)
		}
		info := ctrl.DevInfo{State: ctrl.Quiesced, Queues: 2, Depth: 16, ServerPID: -1, Flags: ctrl.Features(uapi.FlagUserRecovery)}
		s := m.sampler()
		d := newDevice(0, s)
		d.aim(map[int]sysfs.Stat{0: stat}, true)
		d.take(seen{info: &info})
		s.devices[0] = d
		n := 0
		for _, q := range s.Detail(t.Context(), 0, -1).Queues {
			for _, tag := range q.Tags {
				n++
				if tag.Holder != tui.Parked || kernel == "7.3" && tag.Op != "READ" {
					t.Errorf("%s: %+v", kernel, tag)
				}
			}
		}
		if n != 3 {
			t.Errorf("%s: %d requests, want 3", kernel, n)
		}
	}
}

// TestRecorded samples what the kernels showed of a server that held seven
// requests.
func TestRecorded(t *testing.T) {
	for _, kernel := range []string{"6.12", "7.3"} {
		m := newMachine(t)
		m.root = "../sysfs/testdata/" + kernel + "/held"
		m.infos[0] = ctrl.DevInfo{State: ctrl.Live, Queues: 2, Depth: 16, ServerPID: 1 << 22}
		s := m.sampler()
		one(t, s)
		m.pass(5 * time.Second)
		d := one(t, s)
		if d.InFlight != 7 || d.Rates == nil || d.Rates.IOPS() != 0 || d.Health != "stalled" || d.Server.Alive || !d.AtLeast {
			t.Errorf("%s: %+v", kernel, d)
		}
		ops := map[string]int{}
		for i := range 2 {
			q := s.Detail(t.Context(), 0, i).Queues[i]
			for _, tag := range q.Tags {
				ops[tag.Op]++
				if tag.Holder != tui.InDriver {
					t.Errorf("%s: %+v", kernel, tag)
				}
			}
		}
		if ops["READ"] != 5 || ops["WRITE"] != 2 {
			t.Errorf("%s: operations %v", kernel, ops)
		}
	}
}

// ours makes a device one of ours, with a statistics page of this process.
func (m *machine) ours(t testing.TB, id int) *stats.Writer {
	t.Helper()
	info := m.infos[id]
	info.ServerFlags, info.ServerPID = rundir.NewToken(), os.Getpid()
	m.infos[id] = info
	m.process(os.Getpid(), "ublk", 'S', 0)
	dir := m.state.Dir(id)
	if err := dir.Create(); err != nil {
		t.Fatal(err)
	}
	body := json.RawMessage(`{"type":"loop"}`)
	if err := dir.WriteConfig(rundir.Config{Token: info.ServerFlags, BootID: "b", ID: id, Name: "disk-1", Body: body}); err != nil {
		t.Fatal(err)
	}
	w, err := stats.Create(dir.Stats(), id, info.Queues, info.Depth)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return w
}

func TestOwnServer(t *testing.T) {
	m := newMachine(t)
	m.add(2, 2, 16)
	w := m.ours(t, 2)
	m.disks(map[int]disk{2: {}})
	s := m.sampler()
	one(t, s)
	q := w.Queue(1)
	q.SetThread(4242)
	m.process(4242, "ublk", 'S', 7)
	if err := os.MkdirAll(filepath.Join(m.root, "proc", strconv.Itoa(os.Getpid()), "task"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(m.root, "proc/4242"), filepath.Join(m.root, "proc", strconv.Itoa(os.Getpid()), "task/4242")); err != nil {
		t.Fatal(err)
	}
	now := stats.Now()
	for i := range 100 {
		took := 5 * time.Millisecond
		if i == 99 {
			took = 50 * time.Millisecond
		}
		q.Begin(now - int64(took))
		q.Start(3, 0, 64, 8192)
		q.End()
		q.Begin(now)
		q.Done(3, 8192)
		q.End()
	}
	q.Begin(now - int64(8*time.Second))
	q.Start(7, 1, 4096, 512)
	q.Start(8, 2, 0, 0)
	q.Done(8, -5)
	q.End()
	m.busy(2, 1, 16, 7, 12)
	m.inDriver(2, 2)
	m.pass(time.Second)
	m.disks(map[int]disk{2: {reads: 100, inFlight: 2}})
	d := one(t, s)
	within := func(got, want time.Duration) bool { return got > want*7/8 && got < want*9/8 }
	if d.Type != "loop" || d.Name != "disk-1" || !d.Server.Own || d.Errors != 1 || !within(d.Latency.P50, 5*time.Millisecond) || !within(d.Latency.P99, 50*time.Millisecond) {
		t.Errorf("device %+v", d)
	}
	detail := s.Detail(t.Context(), 2, -1)
	got := detail.Queues[1]
	if h := holders(got); len(h) != 2 || h[7] != tui.Delivered || h[12] != tui.Allocated {
		t.Errorf("holders %v", h)
	}
	if tag := got.Tags[0]; tag.Op != "WRITE" || tag.Sector != 4096 || tag.Bytes != 512 || tag.Age < 8*time.Second || tag.Age > time.Minute || got.Oldest != tag.Age {
		t.Errorf("tag %+v", tag)
	}
	if got.TID != 4242 || got.LastCPU != 2 || got.Rates == nil || got.Rates.Reads == 0 || got.Errors != 1 || !within(got.Latency.P50, 5*time.Millisecond) {
		t.Errorf("queue %+v, rates %+v", got, got.Rates)
	}
	if idle := detail.Queues[0]; idle.InFlight != 0 || idle.Rates == nil || idle.Rates.IOPS() != 0 || idle.Latency.P50 != tui.Unknown {
		t.Errorf("queue 0 %+v", idle)
	}
}

// TestAtOnce has no latency for requests answered in the batch that they came in.
func TestAtOnce(t *testing.T) {
	m := newMachine(t)
	m.add(2, 1, 16)
	w := m.ours(t, 2)
	m.disks(map[int]disk{2: {}})
	s := m.sampler()
	one(t, s)
	q := w.Queue(0)
	now := stats.Now()
	q.Begin(now)
	for range 50 {
		q.Start(3, 0, 64, 8192)
		q.Done(3, 8192)
	}
	q.Start(3, 0, 64, 8192)
	q.End()
	q.Begin(now + int64(time.Millisecond))
	q.Done(3, 8192)
	q.End()
	m.pass(time.Second)
	m.disks(map[int]disk{2: {reads: 51}})
	if d := one(t, s); d.Latency.P50 != tui.Unknown || d.Latency.P99 < time.Millisecond/2 {
		t.Errorf("latency %+v", d.Latency)
	}
}

// TestReissue keeps the age of what the dead server had and a new one will get.
func TestReissue(t *testing.T) {
	m := newMachine(t)
	m.add(2, 1, 16)
	w := m.ours(t, 2)
	q := w.Queue(0)
	q.Begin(stats.Now() - int64(8*time.Second))
	q.Start(5, 1, 4096, 512)
	q.End()
	info := m.infos[2]
	info.State, info.ServerPID, info.Flags = ctrl.Quiesced, -1, ctrl.Features(uapi.FlagUserRecovery|uapi.FlagUserRecoveryReissue)
	m.infos[2] = info
	m.busy(2, 0, 16, 5, 6)
	m.disks(map[int]disk{2: {inFlight: 2}})
	s := m.sampler()
	if d := one(t, s); d.Server.PID != os.Getpid() || d.Server.Alive || !d.AtLeast {
		t.Errorf("device %+v", d)
	}
	tags := s.Detail(t.Context(), 2, -1).Queues[0].Tags
	if len(tags) != 2 || tags[0].Age < 8*time.Second || tags[0].Holder != tui.Parked || tags[1].Age != tui.Unknown || tags[1].Holder != tui.Parked {
		t.Errorf("tags %+v", tags)
	}
}

// TestReincarnation does not take the state folder of an earlier device for
// that of a foreign one with the same id.
func TestReincarnation(t *testing.T) {
	m := newMachine(t)
	m.add(2, 1, 16)
	m.ours(t, 2)
	s := m.sampler()
	one(t, s)
	info := m.infos[2]
	info.ServerFlags++
	m.infos[2] = info
	if d := one(t, s); d.Type != "" || d.Server.Own || d.Errors != tui.Unknown {
		t.Errorf("foreign device %+v", d)
	}
}

// TestHandler names who recovers a device.
func TestHandler(t *testing.T) {
	m := newMachine(t)
	m.add(0, 1, 8)
	info := m.infos[0]
	info.State = ctrl.Quiesced
	m.infos[0] = info
	lock, err := m.state.Lock(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Unlock() }()
	s := m.sampler()
	if d := one(t, s); d.Handler != "" {
		t.Errorf("a dead holder: %q", d.Handler)
	}
	m.process(os.Getpid(), "ublk", 'S', 0)
	if d := one(t, s); d.Handler == "" {
		t.Error("the holder of the lock is not told")
	}
}
