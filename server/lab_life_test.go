package server_test

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"ublk/ctrl"
	"ublk/internal/labtest"
	"ublk/internal/sysfs"
	"ublk/server"
	"ublk/server/target/null"
	"ublk/server/target/targettest"
)

// census counts what a process can leak.
type census struct{ fds, threads, maps int }

func takeCensus(t *testing.T) census {
	t.Helper()
	count := func(dir string) int {
		e, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		return len(e)
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	for _, b := range maps {
		if b == '\n' {
			lines++
		}
	}
	return census{fds: count("/proc/self/fd"), threads: count("/proc/self/task"), maps: lines}
}

// TestLabCycles adds and deletes 1,000 devices in one process, eight side by
// side. Nothing stays.
func TestLabCycles(t *testing.T) {
	c := labtest.Require(t)
	cycle := func() {
		targettest.Stop(t, targettest.Up(t, c, server.Config{Type: "null", Queues: 2, Depth: 16}, null.New(1<<20)))
	}
	cycles := func(n int) {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for i := 0; i < n/8 && !t.Failed(); i++ {
					cycle()
				}
			})
		}
		wg.Wait()
	}
	cycles(40) // let the runtime reach the number of threads it likes
	before := takeCensus(t)
	cycles(1000)
	after := takeCensus(t)
	for deadline := time.Now().Add(10 * time.Second); after.fds > before.fds && time.Now().Before(deadline); after = takeCensus(t) {
		time.Sleep(10 * time.Millisecond) // what was given up in time ends by itself
	}
	if after.fds > before.fds || after.threads > before.threads+8 || after.maps > before.maps+20 {
		t.Errorf("before %+v, after 1,000 cycles %+v", before, after)
		for fd := range 100 {
			if link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); err == nil {
				t.Logf("%d: %s", fd, link)
			}
		}
	}
	if ids, err := sysfs.New("/").Devices(); err != nil || len(ids) != 0 {
		t.Errorf("devices left: %v, %v", ids, err)
	}
}

// TestLabManyDevices has 64 of them at once, made side by side.
func TestLabManyDevices(t *testing.T) {
	c := labtest.Require(t)
	devices := make([]*server.Device, 64)
	var wg sync.WaitGroup
	for i := range devices {
		wg.Go(func() { devices[i] = targettest.Up(t, c, server.Config{Type: "null", Depth: 16}, null.New(1<<20)) })
	}
	wg.Wait()
	seen := map[int]bool{}
	for _, d := range devices {
		seen[d.Info().ID] = true
	}
	if len(seen) != len(devices) {
		t.Errorf("%d different ids of %d devices", len(seen), len(devices))
	}
	for _, d := range devices {
		wg.Go(func() { targettest.Stop(t, d) })
	}
	wg.Wait()
}

// TestLabDeep is a device of 8 queues with 1,024 tags each, under load.
func TestLabDeep(t *testing.T) {
	c := labtest.Require(t)
	d := targettest.Start(t, c, server.Config{Type: "null", Queues: 8, Depth: 1024}, null.New(1<<30))
	if got := d.Info(); got.Depth != 1024 || got.Queues != min(8, runtime.NumCPU()) {
		t.Fatalf("%d queues of depth %d", got.Queues, got.Depth)
	}
	fio(t, d, "--rw=randread", "--bs=4k", "--iodepth=1024", "--numjobs=8", "--number_ios=5000", "--thread")
}

// TestLabStopFromOutside is another process's STOP: the server notices, by
// itself, and Wait has no error.
func TestLabStopFromOutside(t *testing.T) {
	c := labtest.Require(t)
	d := targettest.Up(t, c, server.Config{Type: "null", Queues: 2}, null.New(1<<20))
	if err := c.Stop(t.Context(), d.Info().ID); err != nil {
		t.Fatal(err)
	}
	select {
	case <-d.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the queues did not end")
	}
	if err := errors.Join(d.Wait(), d.Close(), d.Delete(t.Context())); err != nil {
		t.Fatal(err)
	}
}

// TestLabAttach serves a device again that was stopped.
func TestLabAttach(t *testing.T) {
	c := labtest.Require(t)
	cfg := server.Config{Type: "null", Queues: 2, Depth: 32}
	d := targettest.Up(t, c, cfg, null.New(1<<20))
	if _, err := server.Attach(t.Context(), c, d.Info().ID, cfg, null.New(1<<20)); !errors.Is(err, server.ErrLive) {
		t.Errorf("a second server on a live device: %v", err)
	}
	if err := errors.Join(d.Stop(t.Context()), d.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Attach(t.Context(), c, d.Info().ID, cfg, null.New(1<<19)); err == nil {
		t.Error("a target smaller than the device was accepted")
	}
	again, err := server.Attach(t.Context(), c, d.Info().ID, cfg, null.New(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	err = again.Start(t.Context())
	if second := (*server.SecondServerError)(nil); errors.As(err, &second) {
		have, ferr := c.Features(t.Context())
		if f, _ := ctrl.LookupFeature("PER_IO_DAEMON"); ferr != nil || have.Has(f.Flag) {
			t.Errorf("a kernel that should take a second server: %v", err)
		}
		if err := again.Delete(t.Context()); err != nil {
			t.Error(err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	fio(t, again, "--rw=randread", "--bs=4k", "--iodepth=16", "--number_ios=100")
	targettest.Stop(t, again)
}

// TestLabRecover replaces a server that left a recoverable device.
func TestLabRecover(t *testing.T) {
	c := labtest.Require(t)
	r := newRAM(4 << 20)
	cfg := server.Config{Type: "ram", Queues: 2, Depth: 32, Recovery: ctrl.RecoveryReissue}
	d := targettest.Up(t, c, cfg, ramTarget(t, r))
	fio(t, d, "--rw=randwrite", "--bs=4k", "--iodepth=16", "--size=4m", "--verify=crc32c", "--do_verify=0", "--randseed=1")
	if err := d.Close(); err != nil { // to the kernel: the server's death
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		info, err := c.Info(t.Context(), d.Info().ID)
		if err != nil {
			t.Fatal(err)
		}
		if info.State == ctrl.Quiesced {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("state %s", info.State)
		}
		time.Sleep(time.Millisecond) // the kernel announces nothing
	}
	again, err := server.Attach(t.Context(), c, d.Info().ID, cfg, ramTarget(t, r))
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	fio(t, again, "--rw=randwrite", "--bs=4k", "--iodepth=16", "--size=4m", "--verify=crc32c", "--verify_only", "--randseed=1")
	targettest.Stop(t, again)
}

// TestLabResize grows and shrinks a live device.
func TestLabResize(t *testing.T) {
	c := labtest.Require(t)
	have, err := c.Features(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d := targettest.Start(t, c, server.Config{Type: "ram"}, ramTarget(t, newRAM(4<<20)))
	err = d.Resize(t.Context(), 8<<20)
	if f, _ := ctrl.LookupFeature("UPDATE_SIZE"); !have.Has(f.Flag) {
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("without UPDATE_SIZE: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	size, err := os.ReadFile(fmt.Sprintf("/sys/block/ublkb%d/size", d.Info().ID))
	if err != nil || string(size) != "16384\n" {
		t.Errorf("size %q, %v", size, err)
	}
	if err := d.Resize(t.Context(), 1000); err == nil {
		t.Error("a size that is no multiple of the block was accepted")
	}
}
