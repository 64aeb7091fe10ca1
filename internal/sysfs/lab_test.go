package sysfs

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/internal/uring"
)

// These tests need the driver: lab/run -- go test ./internal/sysfs, or the
// compiled test in the lab.

// eventually waits for what the kernel does on its own.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestLabDevice(t *testing.T) {
	d := newTestDevice(t)
	f := New("/")
	if ids, err := f.Devices(); err != nil || !slices.Contains(ids, d.id) {
		t.Errorf("devices %v, %v", ids, err)
	}
	disk, err := f.Disk(d.id)
	if err != nil {
		t.Fatal(err)
	}
	limits := disk.Limits
	if disk.Size != testDiskSize || limits.LogicalBlockSize != 512 || limits.PhysicalBlockSize != 4096 || limits.MaxSectors != testMaxIO ||
		!limits.WriteCache || limits.FUA || !limits.IOStats || disk.DiskSeq == 0 || limits.Scheduler == "" || limits.Zoned != "none" {
		t.Errorf("disk %+v", disk)
	}
	queues, err := f.Queues(d.id)
	if err != nil || len(queues) != testQueues || queues[0].Tags != testDepth || len(queues[0].CPUs) == 0 {
		t.Errorf("queues %+v, %v", queues, err)
	}
	if pid, ok, err := f.CharHolder(d.id); err != nil || !ok || pid != d.server.Process.Pid {
		t.Errorf("char holder %d, %v, %v; want %d", pid, ok, err, d.server.Process.Pid)
	}
	rings, err := f.Rings(d.server.Process.Pid)
	if err != nil || len(rings) != testQueues {
		t.Errorf("rings %+v, %v", rings, err)
	}
	stats, err := f.DiskStats()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := stats[d.id]; !ok {
		t.Errorf("disk statistics have no device %d: %v", d.id, stats)
	}
	if max, err := f.UblksMax(); err != nil || max < 1 {
		t.Errorf("ublks_max %d, %v", max, err)
	}
	d.state(t, Healthy)
}

// sample is what top would take.
func (d *testDevice) sample(t *testing.T) Sample {
	t.Helper()
	f := New("/")
	info, err := d.client.Info(t.Context(), d.id)
	if err != nil {
		t.Fatal(err)
	}
	s := Sample{State: int(info.State), Server: 'X'}
	if process, err := f.ProcessStat(d.server.Process.Pid); err == nil {
		s.Server = process.State
	}
	if s.Stat, err = f.Stat(d.id); err != nil {
		return s
	}
	s.HasDisk = true
	s.Inflight, _ = f.Inflight(d.id)
	queues, err := f.Queues(d.id)
	s.NoQueues = err == nil && len(queues) == 0
	requeued, _ := f.RequeueList(d.id)
	s.Requeued = len(requeued) > 0
	s.QueueFlags, _ = f.QueueState(d.id)
	return s
}

func (d *testDevice) state(t *testing.T, want Health) {
	t.Helper()
	if got := Derive(d.sample(t), d.sample(t)); got != want {
		t.Errorf("health %q, want %q", got, want)
	}
}

// TestLabHeld has a server hold 7 requests, which is then killed.
func TestLabHeld(t *testing.T) {
	d := newTestDevice(t)
	f := New("/")
	d.hold(t)
	done := make(chan error)
	for i := range 7 {
		go func() { done <- d.request(i, i < 5) }()
	}
	eventually(t, "7 requests are in flight", func() bool {
		inflight, err := f.Inflight(d.id)
		return err == nil && inflight == Inflight{5, 2}
	})
	stat, err := f.Stat(d.id)
	if err != nil || stat.InFlight != 7 {
		t.Errorf("stat %+v, %v", stat, err)
	}
	d.checkTags(t, "in_flight")
	d.state(t, Stalled)
	record(t, d.id, "held")

	if err := d.server.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server is stopped", func() bool { return d.sample(t).Server == 'T' })
	if got := Derive(Sample{}, d.sample(t)); got != Stalled {
		t.Errorf("one look at a stopped server: %q", got)
	}

	if err := d.server.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for range 7 { // without REISSUE, what was delivered fails
		if err := <-done; err == nil {
			t.Error("a request succeeded that nobody answered")
		}
	}
	eventually(t, "the device is quiesced", func() bool { return d.sample(t).State == StateQuiesced })
	if _, ok, err := f.CharHolder(d.id); ok || err != nil {
		t.Errorf("a dead server holds the char device: %v, %v", ok, err)
	}
	for i := range 3 {
		go func() { done <- d.request(i, true) }()
	}
	eventually(t, "3 requests are parked", func() bool {
		stat, err := f.Stat(d.id)
		return err == nil && stat.InFlight == 3
	})
	if inflight, err := f.Inflight(d.id); err != nil || inflight.Total() != 0 {
		t.Errorf("inflight %v, %v; parked requests are not in the driver", inflight, err)
	}
	d.state(t, Waiting)
	record(t, d.id, "parked")
	if err := d.client.Stop(t.Context(), d.id); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := <-done; err == nil {
			t.Error("a parked request succeeded on a stopped device")
		}
	}
	if _, err := f.Disk(d.id); err == nil {
		t.Error("a stopped device has a disk")
	}
	_, err = f.Stat(d.id)
	wantNotExist(t, "Stat", err)
	_, err = f.Queues(d.id)
	wantNotExist(t, "Queues", err)
	d.state(t, Dead)
}

// checkTags compares debugfs with itself: as many bits as requests, and each
// request's bit.
func (d *testDevice) checkTags(t *testing.T, state string) {
	t.Helper()
	f := New("/")
	if err := f.CheckDebugfs(); err != nil {
		t.Fatal(err)
	}
	count := 0
	for queue := range testQueues {
		tags, err := f.TagsBitmap(d.id, queue)
		if err != nil {
			t.Fatal(err)
		}
		busy, err := f.Busy(d.id, queue)
		if err != nil {
			t.Fatal(err)
		}
		if len(busy) != tags.Count() {
			t.Errorf("queue %d: %d requests, %d tags", queue, len(busy), tags.Count())
		}
		for _, request := range busy {
			if !tags.Has(request.Tag) || request.State != state || request.Pointer == 0 || (request.Op != "READ" && request.Op != "WRITE") {
				t.Errorf("queue %d, tags %v: %+v", queue, slices.Collect(tags.All()), request)
			}
		}
		count += len(busy)
	}
	if count != 7 {
		t.Errorf("%d requests are busy, not 7", count)
	}
}

// request does one direct I/O of 4 KiB on a thread of its own.
func (d *testDevice) request(block int, read bool) error {
	fd, err := unix.Open(ctrl.BlockPath(d.id), unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	buffer, err := uring.Map(4096)
	if err != nil {
		return err
	}
	if read {
		_, err = unix.Pread(fd, buffer, int64(block)*8192)
	} else {
		_, err = unix.Pwrite(fd, buffer, int64(block)*8192)
	}
	return err
}

func TestLabUevents(t *testing.T) {
	if !New("/").DriverLoaded() {
		t.Skip("the ublk driver is not loaded")
	}
	events, err := Uevents(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var d *testDevice
	t.Run("life", func(t *testing.T) { d = newTestDevice(t) }) // added, started, stopped, deleted
	want := []string{"add ublkc", "add ublkb", "remove ublkb", "remove ublkc"}
	for event := range events {
		name := strings.TrimRight(event.DevName, "0123456789")
		if event.ID != d.id || want[0] != event.Action+" "+name || event.Seq == 0 || (name == "ublkb") != (event.DevType == "disk" && event.DiskSeq > 0) {
			t.Fatalf("got %+v, want %v", event, want)
		}
		if want = want[1:]; len(want) == 0 {
			return
		}
	}
}

// record copies what the readers read of a device into testdata, when asked to:
// UBLK_RECORD names the folder for this kernel. Only the first device is recorded,
// so that the fixtures have one name.
func record(t *testing.T, id int, moment string) {
	folder := os.Getenv("UBLK_RECORD")
	if folder == "" || id != 0 {
		return
	}
	for _, pattern := range []string{
		"/sys/class/misc/ublk-control/dev", "/sys/class/ublk-char/ublkc0/dev", "/sys/module/ublk_drv/parameters/ublks_max", "/proc/diskstats",
		"/sys/block/ublkb0/*", "/sys/block/ublkb0/queue/*", "/sys/block/ublkb0/mq/*/*", "/sys/kernel/debug/block/ublkb0/*",
		"/sys/kernel/debug/block/ublkb0/hctx*/*",
	} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			content, err := os.ReadFile(file)
			if err != nil { // a folder, or a file that only takes writes
				continue
			}
			copied := filepath.Join(folder, moment, file)
			if err := os.MkdirAll(filepath.Dir(copied), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(copied, content, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}
