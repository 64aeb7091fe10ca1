package sample

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ublk/ctrl"
	"ublk/internal/rundir"
	"ublk/internal/sysfs"
	"ublk/internal/uapi"
	"ublk/tui"
)

// machine is a tree of files that looks like one with ublk devices, and what
// its driver says.
type machine struct {
	tb    testing.TB
	root  string
	state rundir.Root
	infos map[int]ctrl.DevInfo
	now   time.Time
	hang  chan struct{} // closed: hung commands return
	hung  int           // the device whose commands hang, -1 for none
}

func newMachine(tb testing.TB) *machine {
	m := &machine{
		tb: tb, root: tb.TempDir(), state: rundir.Root{Path: filepath.Join(tb.TempDir(), "ublk")}, infos: map[int]ctrl.DevInfo{},
		now: time.Date(2026, 8, 1, 14, 2, 11, 0, time.UTC), hang: make(chan struct{}), hung: -1,
	}
	m.write("sys/class/misc/ublk-control/dev", "10:122\n")
	m.write("proc/diskstats", "")
	m.write("proc/uptime", "1000.00 1000.00\n")
	m.mkdir("sys/class/ublk-char")
	m.mkdir("sys/kernel/debug/block")
	return m
}

func (m *machine) mkdir(path string) {
	m.tb.Helper()
	if err := os.MkdirAll(filepath.Join(m.root, path), 0o755); err != nil {
		m.tb.Fatal(err)
	}
}

func (m *machine) write(path, content string) {
	m.tb.Helper()
	m.mkdir(filepath.Dir(path))
	if err := os.WriteFile(filepath.Join(m.root, path), []byte(content), 0o644); err != nil {
		m.tb.Fatal(err)
	}
}

// disk is what diskstats say of one.
type disk struct{ reads, sectors, millis, inFlight, busy, weighted int }

// disks writes diskstats, by id.
func (m *machine) disks(disks map[int]disk) {
	var b strings.Builder
	fmt.Fprintln(&b, " 254       0 vda 1 2 3 4 5 6 7 8 0 9 10 0 0 0 0 0 0")
	for id, d := range disks {
		fmt.Fprintf(&b, " 259 %7d ublkb%d %d 0 %d %d 0 0 0 0 %d %d %d 0 0 0 0 0 0\n", id, id, d.reads, d.sectors, d.millis, d.inFlight, d.busy, d.weighted)
	}
	m.write("proc/diskstats", b.String())
}

// add makes a LIVE device with a server of its own.
func (m *machine) add(id, queues, depth int) {
	m.write(fmt.Sprintf("sys/class/ublk-char/ublkc%d/dev", id), fmt.Sprintf("244:%d\n", id))
	m.mkdir(fmt.Sprintf("sys/block/ublkb%d", id))
	m.inDriver(id, 0)
	for q := range queues {
		m.write(fmt.Sprintf("sys/block/ublkb%d/mq/%d/nr_tags", id, q), fmt.Sprintln(depth))
		m.write(fmt.Sprintf("sys/block/ublkb%d/mq/%d/nr_reserved_tags", id, q), "0\n")
		m.write(fmt.Sprintf("sys/block/ublkb%d/mq/%d/cpu_list", id, q), fmt.Sprintln(q))
		m.busy(id, q, depth)
	}
	m.write(fmt.Sprintf("sys/kernel/debug/block/ublkb%d/state", id), "SAME_COMP|INIT_DONE|STATS|REGISTERED|QOS_ENABLED\n")
	m.write(fmt.Sprintf("sys/kernel/debug/block/ublkb%d/requeue_list", id), "")
	pid := 1000 + id
	m.process(pid, "kublk", 'S', 0)
	m.infos[id] = ctrl.DevInfo{ID: id, State: ctrl.Live, Queues: queues, Depth: depth, ServerPID: pid, Flags: ctrl.Features(uapi.FlagUserRecovery)}
}

func (m *machine) inDriver(id, n int) {
	m.write(fmt.Sprintf("sys/block/ublkb%d/inflight", id), fmt.Sprintf("%8d %8d\n", n, 0))
}

// busy makes tags of a queue allocated and started.
func (m *machine) busy(id, queue, depth int, tags ...int) {
	bits := make([]byte, (depth+7)/8)
	var lines strings.Builder
	for _, tag := range tags {
		bits[tag/8] |= 1 << (tag % 8)
		fmt.Fprintf(&lines, "%016x {.op=WRITE, .cmd_flags=SYNC, .rq_flags=IO_STAT, .state=in_flight, .tag=%d, .internal_tag=-1}\n", tag+1, tag)
	}
	var dump strings.Builder
	for i, b := range bits {
		if i%16 == 0 {
			fmt.Fprintf(&dump, "%08x:", i)
		}
		if i%2 == 0 {
			dump.WriteByte(' ')
		}
		fmt.Fprintf(&dump, "%02x", b)
		if i%16 == 15 || i == len(bits)-1 {
			dump.WriteByte('\n')
		}
	}
	folder := fmt.Sprintf("sys/kernel/debug/block/ublkb%d/hctx%d/", id, queue)
	m.write(folder+"tags_bitmap", dump.String())
	m.write(folder+"busy", lines.String())
}

// process writes /proc/PID of a server that has used so many ticks of 10 ms.
func (m *machine) process(pid int, comm string, state byte, ticks int) {
	m.write(fmt.Sprintf("proc/%d/stat", pid), fmt.Sprintf("%d (%s) %c 1 %d %d 0 -1 4194560 100 0 0 0 %d 0 0 0 20 0 4 0 5000 1000000 200 18446744073709551615 "+
		"1 1 0 0 0 0 0 0 0 0 0 0 17 2 0 0 0 0 0 0 0 0 0 0 0 0 0\n", pid, comm, state, pid, pid, ticks))
	m.write(fmt.Sprintf("proc/%d/status", pid), "Name:\tx\nUid:\t0\t0\t0\t0\n")
}

func (m *machine) kill(pid int) { m.remove(fmt.Sprintf("proc/%d", pid)) }

func (m *machine) remove(path string) {
	m.tb.Helper()
	if err := os.RemoveAll(filepath.Join(m.root, path)); err != nil {
		m.tb.Fatal(err)
	}
}

// Info implements Driver.
func (m *machine) Info(_ context.Context, id int) (ctrl.DevInfo, error) {
	if id == m.hung {
		<-m.hang
	}
	info, ok := m.infos[id]
	if !ok {
		return info, ctrl.ErrNoDevice
	}
	return info, nil
}

func (m *machine) sampler() *Sampler {
	s := New(Config{FS: sysfs.New(m.root), State: m.state, Driver: m, Patience: 50 * time.Millisecond, Now: func() time.Time { return m.now }})
	m.tb.Cleanup(s.Close)
	return s
}

func (m *machine) pass(d time.Duration) { m.now = m.now.Add(d) }

// one is the only device of a sample.
func one(t *testing.T, s *Sampler) tui.Device {
	t.Helper()
	snapshot := s.Sample(t.Context())
	if len(snapshot.Devices) != 1 {
		t.Fatalf("%d devices, want 1", len(snapshot.Devices))
	}
	return snapshot.Devices[0]
}

func TestRates(t *testing.T) {
	m := newMachine(t)
	m.add(3, 2, 64)
	m.disks(map[int]disk{3: {reads: 1000, sectors: 8000, millis: 100, busy: 100}})
	s := m.sampler()
	first := one(t, s)
	if first.Rates != nil || first.State != "LIVE" || first.Health != "healthy" || first.Queues != 2 || first.Depth != 64 || first.Recovery != "requeue" {
		t.Errorf("first sample %+v", first)
	}
	m.pass(2 * time.Second)
	m.process(1003, "kublk", 'R', 150)
	m.inDriver(3, 7)
	m.disks(map[int]disk{3: {reads: 3000, sectors: 24000, millis: 10100, inFlight: 7, busy: 1100, weighted: 4000}})
	d := one(t, s)
	r := d.Rates
	if r == nil || r.IOPS() != 1000 || r.ReadBytes != 8000*512 || r.ReadTime != 5*time.Millisecond || r.Busy != 0.5 || r.InFlight != 2 || r.WriteTime != tui.Unknown {
		t.Errorf("rates %+v", r)
	}
	if d.InFlight != 7 || d.Server != (tui.Server{PID: 1003, Command: "kublk", Alive: true, State: 'R', CPU: 0.75}) {
		t.Errorf("device %+v", d)
	}
	if d.Errors != tui.Unknown || d.Latency != tui.NoLatency() {
		t.Errorf("a foreign server publishes %d errors, %+v", d.Errors, d.Latency)
	}
	// Another disk of the same name has counters of its own.
	m.pass(time.Second)
	m.disks(map[int]disk{3: {reads: 10}})
	if d := one(t, s); d.Rates != nil {
		t.Errorf("rates across two disks: %+v", d.Rates)
	}
}

// TestServerDies follows a device through its server's death and recovery.
func TestServerDies(t *testing.T) {
	m := newMachine(t)
	m.add(0, 1, 32)
	m.disks(map[int]disk{0: {reads: 5}})
	s := m.sampler()
	one(t, s)
	m.pass(time.Second)
	m.kill(1000)
	info := m.infos[0]
	info.State, info.ServerPID = ctrl.Quiesced, -1
	m.infos[0] = info
	m.disks(map[int]disk{0: {reads: 5, inFlight: 16}})
	one(t, s)
	m.pass(8 * time.Second)
	d := one(t, s)
	if d.Health != "waiting" || d.Server.PID != 1000 || d.Server.Alive || d.For != 8*time.Second || d.AtLeast || d.InFlight != 16 {
		t.Errorf("after the death: %+v", d)
	}
	if text := d.ServerText(); text != "1000 gone 8s · 16 held" {
		t.Errorf("server text %q", text)
	}
	// Who comes later does not know for how long.
	if d := one(t, m.sampler()); !d.AtLeast || d.Server.PID != 0 {
		t.Errorf("seen late: %+v", d)
	}
	m.process(2000, "kublk", 'S', 0)
	info.State, info.ServerPID = ctrl.Live, 2000
	m.infos[0] = info
	m.pass(time.Second)
	m.disks(map[int]disk{0: {reads: 21}})
	if d := one(t, s); d.Health != "healthy" || d.Server.PID != 2000 || !d.Server.Alive || d.For != 0 {
		t.Errorf("recovered: %+v", d)
	}
}

func TestHealthOverTime(t *testing.T) {
	for _, test := range []struct {
		name     string
		prepare  func(*machine)
		want     string
		wantText string
	}{
		{"held", func(m *machine) { m.inDriver(0, 4) }, "stalled", "1000 kublk stalled >5s · 4 held"},
		{"parked", func(m *machine) { m.inDriver(0, 0) }, "parked", "1000 kublk parked >5s · 4 held"},
		{"stopped", func(m *machine) { m.inDriver(0, 4); m.process(1000, "kublk", 'T', 0) }, "stalled", "1000 kublk stopped >5s · 4 held"},
		{"being stopped", func(m *machine) {
			m.inDriver(0, 4)
			m.write("sys/kernel/debug/block/ublkb0/state", "QUIESCED|REGISTERED\n")
		}, "wedged", "1000 kublk wedged 4s · 4 held"},
		{"losing its queues", func(m *machine) {
			m.remove("sys/kernel")
			m.remove("sys/block/ublkb0/mq")
		}, "wedged", "1000 kublk wedged 4s · 4 held"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newMachine(t)
			m.add(0, 1, 32)
			m.disks(map[int]disk{0: {reads: 5, inFlight: 4}})
			test.prepare(m)
			s := m.sampler()
			d := one(t, s)
			for range 5 {
				m.pass(time.Second)
				d = one(t, s)
			}
			if d.Health != test.want || d.ServerText() != test.wantText {
				t.Errorf("health %q, text %q, for %v", d.Health, d.ServerText(), d.For)
			}
			// Progress is health.
			m.process(1000, "kublk", 'S', 0)
			m.write("sys/kernel/debug/block/ublkb0/state", "REGISTERED\n")
			m.mkdir("sys/block/ublkb0/mq")
			m.disks(map[int]disk{0: {reads: 6, inFlight: 4}})
			m.pass(time.Second)
			if d := one(t, s); d.Health != "healthy" {
				t.Errorf("after progress: %+v", d)
			}
		})
	}
}

// TestUnresponsive has one of three devices hang: the others are sampled all the same.
func TestUnresponsive(t *testing.T) {
	m := newMachine(t)
	disks := map[int]disk{}
	for id := range 3 {
		m.add(id, 1, 8)
		disks[id] = disk{reads: 10}
	}
	m.disks(disks)
	s := m.sampler()
	s.Sample(t.Context())
	m.hung = 1
	for i := range 3 {
		m.pass(time.Second)
		start := time.Now()
		snapshot := s.Sample(t.Context())
		if took := time.Since(start); i > 0 && took > 40*time.Millisecond {
			t.Errorf("a device that is known to hang was waited for again: %v", took)
		}
		for id, d := range snapshot.Devices {
			if (d.Silent > 0) != (id == 1) || d.State != "LIVE" || d.Server.PID != 1000+id {
				t.Errorf("device %d: %+v", id, d)
			}
		}
	}
	if detail := s.Detail(t.Context(), 1, -1); detail.Missing == "" {
		t.Errorf("a close look at it: %+v", detail)
	}
	close(m.hang)
	for deadline := time.Now().Add(5 * time.Second); ; {
		if d := s.Sample(t.Context()).Devices[1]; d.Silent == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the device answers again and is not seen to")
		}
	}
}

func TestVanishing(t *testing.T) {
	m := newMachine(t)
	m.add(0, 1, 8)
	m.add(1, 1, 8)
	s := m.sampler()
	s.Sample(t.Context())
	delete(m.infos, 0) // the driver no longer knows it, sysfs still does
	if got := s.Sample(t.Context()).Devices; len(got) != 1 || got[0].ID != 1 {
		t.Errorf("devices %+v", got)
	}
	m.remove("sys/class/ublk-char/ublkc1")
	if got := s.Sample(t.Context()).Devices; len(got) != 0 || len(s.devices) != 0 {
		t.Errorf("devices %+v, %d remembered", got, len(s.devices))
	}
}

func TestNotes(t *testing.T) {
	m := newMachine(t)
	m.add(0, 2, 8)
	m.disks(map[int]disk{0: {reads: 1, inFlight: 1}})
	m.remove("sys/kernel")
	s := m.sampler()
	s.Driver = nil
	snapshot := s.Sample(t.Context())
	if len(snapshot.Notes) != 2 || !strings.Contains(snapshot.Notes[0], "root") || !strings.Contains(snapshot.Notes[1], "debugfs") {
		t.Errorf("notes %q", snapshot.Notes)
	}
	if d := snapshot.Devices[0]; d.State != "" || d.Health != "" || d.InFlight != 1 {
		t.Errorf("device %+v", d)
	}
	// The number of queues is in sysfs for everybody.
	detail := s.Detail(t.Context(), 0, -1)
	if len(detail.Queues) != 2 || detail.Queues[1].CPUs != "1" || detail.Queues[0].InFlight != tui.Unknown || detail.Missing == "" {
		t.Errorf("detail %+v", detail)
	}
	m.remove("sys")
	if snapshot := s.Sample(t.Context()); len(snapshot.Devices) != 0 || len(snapshot.Notes) != 1 || !strings.Contains(snapshot.Notes[0], "not loaded") {
		t.Errorf("without the driver: %+v", snapshot)
	}
}
