package server_test

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"ublk/internal/labtest"
	"ublk/server"
	"ublk/server/target/null"
	"ublk/server/target/targettest"
)

func ramTarget(t testing.TB, r *ram) server.Target {
	t.Helper()
	target, err := server.FromBackend(r, server.BackendConfig{Size: int64(len(r.data))})
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// fio runs one fio job on a device, with direct I/O.
func fio(t testing.TB, d *server.Device, args ...string) string {
	t.Helper()
	return labtest.Run(t, "fio", append([]string{"--name=t", "--filename=" + d.Path(), "--ioengine=io_uring", "--direct=1",
		"--group_reporting"}, args...)...)
}

var copyModes = []server.DataMode{server.DataCopy, server.DataUserCopy}

// TestLabVerify writes with checksums and reads back, over queues, modes and
// block sizes.
func TestLabVerify(t *testing.T) {
	c := labtest.Require(t)
	for _, mode := range copyModes {
		for _, queues := range []int{1, 4} {
			for _, bs := range []string{"4k", "64k", "512k", "512-128k"} {
				t.Run(fmt.Sprintf("%s/%d/%s", mode, queues, bs), func(t *testing.T) {
					d := targettest.Start(t, c, server.Config{Type: "ram", Queues: queues, Data: mode}, ramTarget(t, newRAM(16<<20)))
					size := "--bs=" + bs
					if bs == "512-128k" {
						size = "--bsrange=" + bs
					}
					fio(t, d, "--rw=randwrite", size, "--iodepth=32", "--size=16m", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--randrepeat=0")
				})
			}
		}
	}
}

// TestLabOps sees flush, discard and write-zeroes arrive, and what they do.
func TestLabOps(t *testing.T) {
	c := labtest.Require(t)
	for _, mode := range copyModes {
		t.Run(mode.String(), func(t *testing.T) {
			r := newRAM(8 << 20)
			d := targettest.Start(t, c, server.Config{Type: "ram", Data: mode}, ramTarget(t, r))
			f, err := os.OpenFile(d.Path(), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.Write(bytes.Repeat([]byte{0xaa}, 1<<20)); err != nil {
				t.Fatal(err)
			}
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
			if r.flushes.Load() == 0 {
				t.Error("fsync sent no flush")
			}
			labtest.Run(t, "blkdiscard", "--offset", "0", "--length", "65536", d.Path())
			labtest.Run(t, "blkdiscard", "--zeroout", "--offset", "65536", "--length", "65536", d.Path())
			// fallocate(ZERO_RANGE) keeps the space: NOUNMAP.
			if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, 131072, 65536); err != nil {
				t.Fatal(err)
			}
			if r.discards.Load() == 0 || r.zeroes.Load() < 2 || r.kept.Load() == 0 {
				t.Errorf("%d discards, %d write-zeroes, %d of them without unmap", r.discards.Load(), r.zeroes.Load(), r.kept.Load())
			}
			r.mu.RLock()
			defer r.mu.RUnlock()
			if n := bytes.IndexByte(r.data, 0xaa); n != 3*65536 {
				t.Errorf("first byte that was not zeroed is at %d, want %d", n, 3*65536)
			}
		})
	}
}

// TestLabNoStaleData fills a null device's buffers with writes, then reads: no
// reader may see anything but zeroes.
func TestLabNoStaleData(t *testing.T) {
	c := labtest.Require(t)
	for _, mode := range copyModes {
		t.Run(mode.String(), func(t *testing.T) {
			d := targettest.Start(t, c, server.Config{Type: "null", Depth: 8, Data: mode}, null.New(64<<20))
			f, err := os.OpenFile(d.Path(), os.O_RDWR|unix.O_DIRECT, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			mem, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Munmap(mem)
			for round := range 200 {
				size := 512 << (round % 12)
				for i := range mem {
					mem[i] = 0xee
				}
				if _, err := f.WriteAt(mem[:size], 0); err != nil {
					t.Fatal(err)
				}
				size = 512 << ((round * 7) % 12)
				if _, err := f.ReadAt(mem[:size], 0); err != nil {
					t.Fatal(err)
				}
				if i := bytes.IndexByte(mem[:size], 0xee); i >= 0 {
					t.Fatalf("round %d: byte %d of %d read is not zero", round, i, size)
				}
			}
		})
	}
}

// TestLabNoAllocations is rule 7: the hot path allocates nothing.
func TestLabNoAllocations(t *testing.T) {
	c := labtest.Require(t)
	for name, target := range map[string]server.Target{"null": null.New(1 << 30), "backend": ramTarget(t, newRAM(16<<20))} {
		t.Run(name, func(t *testing.T) {
			d := targettest.Start(t, c, server.Config{Type: name, Queues: 2}, target)
			load := func() {
				fio(t, d, "--rw=randrw", "--bs=4k", "--iodepth=32", "--number_ios=20000", "--size=16m", "--norandommap")
			}
			load()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			load()
			runtime.ReadMemStats(&after)
			// Starting fio from this process allocates a few hundred objects.
			if n := after.Mallocs - before.Mallocs; n > 2000 {
				t.Errorf("%d allocations while 20,000 requests were served", n)
			}
		})
	}
}
