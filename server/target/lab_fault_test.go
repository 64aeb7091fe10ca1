package target_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublk/internal/labtest"
	"ublk/internal/uapi"
	"ublk/server"
	"ublk/server/target/fault"
	"ublk/server/target/loop"
	"ublk/server/target/mem"
	"ublk/server/target/targettest"
)

// faulty wraps a target.
func faulty(t testing.TB, inner server.Target, o fault.Options) server.Target {
	t.Helper()
	target, err := fault.New(inner, o)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

func ram(t testing.TB) server.Target {
	t.Helper()
	target, err := mem.New(40 << 20)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// TestLabFault runs the suite through a target without any faults, and in the
// long run through delays and short reads, which slow a disk and change nothing,
// and through a volatile cache.
func TestLabFault(t *testing.T) {
	c := labtest.Require(t)
	dev := ramDisk(t)
	kinds := map[string]fault.Options{"none": {}}
	if os.Getenv("UBLK_LONG") != "" {
		kinds["short"] = fault.Options{Settings: map[string]string{"short-reads": "50%", "short-writes": "50%", "delay": "p90=1ms"}}
		kinds["cache"] = fault.Options{VolatileCache: true, Settings: map[string]string{"torn": "20%"}}
	}
	for name, o := range kinds {
		t.Run(name, func(t *testing.T) {
			targettest.Conform(t, c, func(t *testing.T) server.Target {
				return faulty(t, openLoop(t, loop.Options{File: dev, Size: 40 << 20}), o)
			}, "copy", "auto-reg", "copy-batch")
		})
	}
}

// job is one fio job and what became of it.
type job struct {
	Error int  `json:"error"`
	Read  side `json:"read"`
	Write side `json:"write"`
}

type side struct {
	IOs     int `json:"total_ios"`
	Latency struct {
		Mean float64 `json:"mean"` // ns
	} `json:"clat_ns"`
}

// fio runs one job, which may fail.
func fio(t *testing.T, d *server.Device, args ...string) job {
	t.Helper()
	cmd := exec.Command("fio", append([]string{"--name=t", "--filename=" + d.Path(), "--ioengine=io_uring", "--direct=1", "--bs=4k", "--output-format=json"}, args...)...)
	out, _ := cmd.Output() // it fails with its job
	var result struct{ Jobs []job }
	if start := bytes.IndexByte(out, '{'); start < 0 || json.NewDecoder(bytes.NewReader(out[start:])).Decode(&result) != nil || len(result.Jobs) != 1 {
		t.Fatalf("fio %v: %s", args, out)
	}
	return result.Jobs[0]
}

// TestLabFaultErrors is that errors reach the client as they are, for the right
// operations, in the right place, and end when they are cleared.
func TestLabFaultErrors(t *testing.T) {
	c := labtest.Require(t)
	target := faulty(t, ram(t), fault.Options{Settings: map[string]string{"error-rate": "1:read:ENODATA:2048-4095,1:write:ENOSPC"}})
	d := targettest.Start(t, c, server.Config{Type: "test"}, target)
	check := func(name string, want unix.Errno, args ...string) {
		t.Helper()
		if j := fio(t, d, append(args, "--iodepth=4")...); unix.Errno(j.Error) != want {
			t.Errorf("%s: %v, want %v", name, unix.Errno(j.Error), want)
		}
	}
	check("a read of the sectors", unix.ENODATA, "--rw=read", "--offset=1m", "--size=1m")
	check("a read before them", 0, "--rw=read", "--offset=0", "--size=1m")
	check("a read behind them", 0, "--rw=read", "--offset=2m", "--size=1m")
	check("a read of the last of them", unix.ENODATA, "--rw=read", "--offset=2093056", "--size=8k", "--bs=512")
	check("a write", unix.ENOSPC, "--rw=write", "--offset=4m", "--size=64k")
	control(t, target, `{"set":{"error-rate":"1:discard"}}`)
	check("a read under other settings", 0, "--rw=read", "--offset=1m", "--size=1m")
	check("a write under other settings", 0, "--rw=write", "--offset=1m", "--size=1m")
	if out, err := exec.Command("blkdiscard", d.Path()).CombinedOutput(); err == nil {
		t.Errorf("a discard succeeded: %s", out)
	}
	control(t, target, `{"clear":true}`)
	labtest.Run(t, "blkdiscard", d.Path())
}

func control(t *testing.T, target server.Target, change string) {
	t.Helper()
	if got, err := target.(server.Controller).Control(json.RawMessage(change)); err != nil {
		t.Fatalf("%s: %s, %v", change, got, err)
	}
}

// TestLabFaultErrorRate is a share of the requests, the same ones each time. The
// rule is for sectors that nobody reads who looks for partitions.
func TestLabFaultErrorRate(t *testing.T) {
	c := labtest.Require(t)
	failures := func(t *testing.T) (which []int64) {
		target := faulty(t, ram(t), fault.Options{Seed: 3, Settings: map[string]string{"error-rate": "20%:read:20480-40959"}})
		d := targettest.Start(t, c, server.Config{Type: "test"}, target)
		f, err := os.OpenFile(d.Path(), os.O_RDONLY|unix.O_DIRECT, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		page := mapped(t, 4096)
		for i := range int64(500) {
			if _, err := f.ReadAt(page, 10<<20+i*4096); err != nil {
				which = append(which, i)
			}
		}
		return which
	}
	var first, again []int64
	t.Run("first", func(t *testing.T) { first = failures(t) })
	t.Run("again", func(t *testing.T) { again = failures(t) })
	if n := len(first); n < 70 || n > 130 {
		t.Errorf("%d of 500 reads failed, want a fifth", n)
	}
	if !slices.Equal(first, again) {
		t.Errorf("the second time others failed: %v, %v", first, again)
	}
}

// mapped is aligned memory.
func mapped(t *testing.T, size int) []byte {
	t.Helper()
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(mem) })
	return mem
}

// TestLabFaultDelay measures delays at the client.
func TestLabFaultDelay(t *testing.T) {
	c := labtest.Require(t)
	target := faulty(t, ram(t), fault.Options{Settings: map[string]string{"delay": "200ms:read"}})
	d := targettest.Start(t, c, server.Config{Type: "test"}, target)
	within := func(name string, s side, want time.Duration) {
		t.Helper()
		if got := time.Duration(s.Latency.Mean); got < want || got > want*2 {
			t.Errorf("%s: %d requests took %v in the mean, want %v", name, s.IOs, got, want)
		}
	}
	within("fixed", fio(t, d, "--rw=randread", "--size=4m", "--number_ios=10").Read, 200*time.Millisecond)
	if s := fio(t, d, "--rw=randwrite", "--size=4m", "--number_ios=10").Write; s.Latency.Mean > 100e6 {
		t.Errorf("writes took %v ns", s.Latency.Mean)
	}
	control(t, target, `{"set":{"delay":"160ms-240ms"}}`)
	within("range, many at once", fio(t, d, "--rw=randread", "--size=4m", "--iodepth=8", "--number_ios=24").Read, 190*time.Millisecond)
	control(t, target, `{"set":{"delay":"p80=200ms"}}`)
	if s := fio(t, d, "--rw=randread", "--size=4m", "--iodepth=16", "--number_ios=200").Read; s.Latency.Mean < 24e6 || s.Latency.Mean > 160e6 {
		t.Errorf("a fifth of the reads delayed by 200 ms: %v ns in the mean", s.Latency.Mean)
	}
}

// TestLabFaultCache is that readers of a disk with a volatile cache see what was
// written, flushed or not.
func TestLabFaultCache(t *testing.T) {
	c := labtest.Require(t)
	target := faulty(t, openLoop(t, loop.Options{File: ramDisk(t), Size: 40 << 20}), fault.Options{VolatileCache: true, Settings: map[string]string{"torn": "20%"}})
	d := targettest.Start(t, c, server.Config{Type: "test", Queues: 2}, target)
	labtest.Run(t, "fio", "--name=verify", "--filename="+d.Path(), "--ioengine=io_uring", "--direct=1", "--rw=randwrite", "--bs=8k", "--iodepth=32",
		"--size=8m", "--fsync=50", "--randrepeat=0", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1")
}

// TestLabFaultShort is that a loop goes on where its backend stopped, in the
// middle of a read or a write.
func TestLabFaultShort(t *testing.T) {
	c := labtest.Require(t)
	file := filepath.Join(mounted(t, "ext4"), "disk")
	content := mapped(t, 8<<20)
	for _, mode := range []server.DataMode{server.DataCopy, server.DataUserCopy, server.DataAutoReg} {
		t.Run(mode.String(), func(t *testing.T) {
			if mode == server.DataAutoReg {
				labtest.RequireFeature(t, c, uapi.FlagAutoBufReg)
			}
			_, _ = rand.NewChaCha8([32]byte{byte(mode)}).Read(content)
			if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, int64(len(content)))); err != nil {
				t.Fatal(err)
			}
			target := faulty(t, openLoop(t, loop.Options{File: file}), fault.Options{Settings: map[string]string{"short-reads": "70%", "short-writes": "70%"}})
			d := targettest.Start(t, c, server.Config{Type: "test", Data: mode}, target)
			f, err := os.OpenFile(d.Path(), os.O_RDWR|unix.O_DIRECT, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt(content, 0); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, content) {
				t.Errorf("the file has something else than was written: %v", err)
			}
			if got, err := os.ReadFile(d.Path()); err != nil || !bytes.Equal(got, content) {
				t.Errorf("the disk reads otherwise than its file: %v", err)
			}
		})
	}
}

// TestLabFaultStuck is that stuck requests wait until the settings let them go,
// others pass meanwhile, and nothing is lost.
func TestLabFaultStuck(t *testing.T) {
	c := labtest.Require(t)
	target := faulty(t, ram(t), fault.Options{})
	d := targettest.Start(t, c, server.Config{Type: "test"}, target)
	f, err := os.OpenFile(d.Path(), os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	control(t, target, `{"set":{"stuck":"1:write:0-7"}}`)
	page := mapped(t, 4096)
	copy(page, bytes.Repeat([]byte{7}, 4096))
	answer := make(chan error, 1)
	go func() { _, err := f.WriteAt(page, 0); answer <- err }()
	eventually(t, "the write is in flight", func() bool { return inflight(t, d.Path()) == 1 })
	if j := fio(t, d, "--rw=write", "--offset=4m", "--size=1m"); j.Error != 0 {
		t.Errorf("a write elsewhere: %v", unix.Errno(j.Error))
	}
	control(t, target, `{"set":{"delay":"1ms"}}`) // still covered
	select {
	case err := <-answer:
		t.Fatalf("a stuck write was answered: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	control(t, target, `{"clear":true}`)
	select {
	case err := <-answer:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the write was not let go")
	}
	got := mapped(t, 4096)
	if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, page) {
		t.Errorf("the disk has %x…, %v", got[:4], err)
	}
}

// inflight is the number of requests that a disk has not answered.
func inflight(t *testing.T, path string) int {
	t.Helper()
	text, err := os.ReadFile("/sys/block/" + filepath.Base(path) + "/inflight")
	var reads, writes int
	if _, serr := fmt.Sscan(string(text), &reads, &writes); err != nil || serr != nil {
		t.Fatal(err, serr)
	}
	return reads + writes
}

// eventually waits for something that announces itself to nobody.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it did not come to be that %s", what)
		}
	}
}
