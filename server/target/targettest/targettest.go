// Package targettest is the conformance suite that every target passes, in
// every data mode, on every kernel that has it. It needs the driver, and fio.
package targettest

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/internal/labtest"
	"ublk/internal/uapi"
	"ublk/server"
)

// Variant is one way of serving.
type Variant struct {
	Name   string
	Config server.Config
	Needs  uint64 // feature flags
}

// Variants are all ways of serving a target in one of modes.
func Variants(modes []server.DataMode) []Variant {
	var all []Variant
	add := func(name string, needs uint64, cfg server.Config) {
		cfg.Type = "test"
		all = append(all, Variant{name, cfg, needs})
	}
	for _, m := range modes {
		var needs uint64
		switch m {
		case server.DataNone:
			continue // content is undefined
		case server.DataUserCopy:
			needs = uapi.FlagUserCopy
		case server.DataZeroCopy:
			needs = uapi.FlagSupportZeroCopy
		case server.DataAutoReg:
			needs = uapi.FlagAutoBufReg
		case server.DataCopy:
			add("copy-fixed", 0, server.Config{Data: m, Buffers: server.BuffersFixed})
			add("copy-huge", 0, server.Config{Data: m, Buffers: server.BuffersHuge})
			add("need-get-data", uapi.FlagNeedGetData, server.Config{Data: m, NeedGetData: true})
		}
		add(m.String(), needs, server.Config{Data: m})
		add(m.String()+"-batch", needs|uapi.FlagBatchIO, server.Config{Data: m, Batch: true, Queues: 2})
	}
	return all
}

// Start brings up a device that is taken down when the test ends.
func Start(t testing.TB, c *ctrl.Client, cfg server.Config, target server.Target) *server.Device {
	t.Helper()
	d := Up(t, c, cfg, target)
	t.Cleanup(func() { Stop(t, d) })
	return d
}

// Up brings up a device that is the caller's to Stop.
func Up(t testing.TB, c *ctrl.Client, cfg server.Config, target server.Target) *server.Device {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	have, err := c.Features(ctx)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := cfg.Plan(target, have)
	if err != nil {
		t.Fatal(err)
	}
	d, err := server.Add(ctx, c, plan, target)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Start(ctx); err != nil {
		_ = d.Delete(ctx)
		t.Fatal(err)
	}
	return d
}

// Stop stops and deletes a device.
func Stop(t testing.TB, d *server.Device) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"stop", func() error { return d.Stop(ctx) }},
		{"close", d.Close},
		{"delete", func() error { return d.Delete(ctx) }},
	} {
		if err := step.do(); err != nil {
			t.Errorf("%s: %v", step.name, err)
		}
	}
}

// Conform runs the suite on the targets that open makes: empty disks of at
// least 32 MiB that keep what is written to them. In the short run it keeps to
// the variants that are named, if any are.
func Conform(t *testing.T, c *ctrl.Client, open func(t *testing.T) server.Target, short ...string) {
	have, err := c.Features(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	probe := open(t)
	modes := []server.DataMode{server.DataCopy, server.DataUserCopy}
	if m, ok := probe.(server.Moder); ok {
		modes = m.Modes()
	}
	if err := probe.Close(); err != nil {
		t.Fatal(err)
	}
	for _, v := range Variants(modes) {
		if len(short) > 0 && os.Getenv("UBLK_LONG") == "" && !slices.Contains(short, v.Name) {
			continue
		}
		t.Run(v.Name, func(t *testing.T) {
			if err := have.Require(v.Needs); err != nil {
				t.Skip(err)
			}
			d := Up(t, c, v.Config, open(t))
			block := 1 << d.Params().Basic.LogicalBlockShift
			t.Run("verify", func(t *testing.T) { verify(t, d, fmt.Sprintf("%d-128k", block), "512k-512k") })
			t.Run("operations", func(t *testing.T) { operations(t, d) })
			Stop(t, d) // its backing may be for one only
			if os.Getenv("UBLK_LONG") == "" {
				return
			}
			for _, queues := range []int{2, 4} {
				t.Run(fmt.Sprintf("%d queues", queues), func(t *testing.T) {
					cfg := v.Config
					cfg.Queues = queues
					verify(t, Start(t, c, cfg, open(t)), fmt.Sprintf("%d-1m", block))
				})
			}
		})
	}
}

// verify writes every block with a checksum of its own and reads all back, in
// ranges of block sizes, from as many threads as there are queues.
func verify(t *testing.T, d *server.Device, ranges ...string) {
	jobs, size := max(d.Info().Queues, 1), 8
	if os.Getenv("UBLK_LONG") != "" {
		size = 16
	}
	each := fmt.Sprintf("%dm", size/jobs)
	for _, bs := range ranges {
		// Writes that overlap in flight have no order, and blockalign lets fio make them.
		labtest.Run(t, "fio", "--name=verify", "--serialize_overlap=1", "--filename="+d.Path(), "--ioengine=io_uring", "--direct=1", "--rw=randwrite",
			fmt.Sprintf("--blockalign=%d", 1<<d.Params().Basic.LogicalBlockShift), "--bsrange="+bs, "--iodepth=32", "--size="+each, "--offset_increment="+each,
			fmt.Sprintf("--numjobs=%d", jobs), "--thread", "--randrepeat=0", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1")
	}
}

// operations compares discard, write-zeroes and FUA with a model of the disk.
func operations(t *testing.T, d *server.Device) {
	f, err := os.OpenFile(d.Path(), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size = 4 << 20
	model := make([]byte, size)
	for i := range model {
		model[i] = byte(i>>12) | 1
	}
	if _, err := f.WriteAt(model, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	p := d.Params().Discard
	if p != nil && p.MaxWriteZeroesSectors > 0 {
		zero := func(off, n int64, mode uint32) {
			if err := unix.Fallocate(int(f.Fd()), mode, off, n); err != nil {
				t.Errorf("fallocate mode %#x: %v", mode, err)
			}
			clear(model[off : off+n])
		}
		zero(0, 65536, unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE)
		zero(1<<20, 1<<20, unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE)
		labtest.Run(t, "blkdiscard", "--zeroout", "--offset", "3145728", "--length", "131072", d.Path())
		clear(model[3<<20 : 3<<20+131072])
	}
	if p != nil && p.MaxSectors > 0 {
		labtest.Run(t, "blkdiscard", "--offset", "2097152", "--length", "262144", d.Path())
	}
	// Synchronous writes carry FUA where it is announced.
	labtest.Run(t, "dd", "if=/dev/zero", "of="+d.Path(), "bs=4k", "count=16", "seek=64", "oflag=direct,dsync", "conv=notrunc", "status=none")
	clear(model[64*4096 : 80*4096])
	compare(t, d.Path(), model, 2<<20, 2<<20+262144)
}

// compare reads the disk past the page cache; what lies between from and to was
// discarded and may be anything that reads the same twice.
func compare(t *testing.T, path string, model []byte, from, to int) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mem, err := unix.Mmap(-1, 0, len(model), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mem)
	if _, err := f.ReadAt(mem, 0); err != nil {
		t.Fatal(err)
	}
	for i := range model {
		if i == from {
			continue
		}
		if (i < from || i >= to) && mem[i] != model[i] {
			t.Fatalf("byte %d is %#x, want %#x", i, mem[i], model[i])
		}
	}
}
