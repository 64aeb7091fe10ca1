package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"ublk/internal/labtest"
)

const writerBlock = 4096

// writer writes block after block, each with its number in it, from several
// threads and with direct I/O, and knows which were completed.
type writer struct {
	file   *os.File
	blocks int
	done   []atomic.Bool
	count  atomic.Int64
	errs   chan error
	stop   atomic.Bool
	wg     sync.WaitGroup
}

func startWriter(t *testing.T, d device, blocks int) *writer {
	t.Helper()
	f, err := os.OpenFile(d.node, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	w := &writer{file: f, blocks: blocks, done: make([]atomic.Bool, blocks), errs: make(chan error, 4)}
	for thread := range 4 {
		w.wg.Go(func() { w.run(thread) })
	}
	t.Cleanup(w.end)
	return w
}

// pattern is the content of a block. Round by round it is the same.
func pattern(block []byte, number int) {
	for i := 0; i < len(block); i += 8 {
		binary.LittleEndian.PutUint64(block[i:], uint64(number)<<32|uint64(i)|1)
	}
}

func (w *writer) run(thread int) {
	mem, err := unix.Mmap(-1, 0, writerBlock, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		w.errs <- err
		return
	}
	defer unix.Munmap(mem)
	for number := thread; number < w.blocks && !w.stop.Load(); number += 4 {
		pattern(mem, number)
		if _, err := w.file.WriteAt(mem, int64(number)*writerBlock); err != nil {
			w.errs <- err
			return
		}
		w.done[number].Store(true)
		w.count.Add(1)
	}
}

// end stops writing and closes the disk.
func (w *writer) end() {
	w.stop.Store(true)
	w.wg.Wait()
	_ = w.file.Close()
}

// check looks for every completed block in the backing file.
func (w *writer) check(t *testing.T, file string) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, writerBlock)
	for number := range w.blocks {
		if !w.done[number].Load() {
			continue
		}
		if pattern(want, number); !bytes.Equal(content[number*writerBlock:(number+1)*writerBlock], want) {
			t.Fatalf("block %d was completed and is not in %s", number, file)
		}
	}
	if w.count.Load() == int64(w.blocks) {
		t.Error("the writer had finished: the test shows nothing")
	}
}

// TestLabTerminate ends servers by SIGTERM while somebody writes.
func TestLabTerminate(t *testing.T) {
	begin(t)
	_, file := ramDisk(t, 64<<20)
	for name, second := range map[string]bool{"then the writer closes": false, "then again": true} {
		t.Run(name, func(t *testing.T) {
			d := add(t, "-t", "loop", "-f", file, "-q", "2")
			server, log := d.server(t), d.log(t)
			w := startWriter(t, d, 64<<20/writerBlock)
			written := func(more int64) {
				t.Helper()
				target := w.count.Load() + more
				eventually(t, "blocks are written", func() bool { return w.count.Load() >= target })
			}
			written(50)
			_ = syscall.Kill(server, syscall.SIGTERM)
			log.waitFor(t, fmt.Sprintf("device %d is in use: pid %d (e2e.test) has %s open; serving on until it is released (a second signal stops anyway)",
				d.id, os.Getpid(), d.node))
			written(50)
			if second {
				_ = syscall.Kill(server, syscall.SIGTERM)
				select {
				case err := <-w.errs:
					// ENOSPC: the disk is gone, and with it its capacity.
					if !errors.Is(err, syscall.EIO) && !errors.Is(err, syscall.ENXIO) && !errors.Is(err, syscall.ENODEV) && !errors.Is(err, syscall.ENOSPC) {
						t.Errorf("the writer got %v", err)
					}
				case <-t.Context().Done():
				}
				log.waitFor(t, "terminated again: stopping in use")
			}
			w.end()
			d.gone(t, server)
			w.check(t, file)
			if len(w.errs) > 0 && !second {
				t.Errorf("the writer got %v", <-w.errs)
			}
		})
	}
}

// TestLabTerminateMounted ends a server whose disk is mounted: it serves until
// the umount.
func TestLabTerminateMounted(t *testing.T) {
	begin(t)
	_, file := ramDisk(t, 32<<20)
	d := add(t, "-t", "loop", "-f", file)
	server, log := d.server(t), d.log(t)
	labtest.Run(t, "mkfs.ext4", "-q", d.node)
	point := t.TempDir()
	labtest.Run(t, "mount", d.node, point)
	mounted := true
	defer func() {
		if mounted {
			labtest.Run(t, "umount", point)
		}
	}()
	_ = syscall.Kill(server, syscall.SIGTERM)
	log.waitFor(t, fmt.Sprintf("device %d is in use: %s (ext4) is mounted from %s; serving on", d.id, point, d.node))
	text := bytes.Repeat([]byte("served on "), 10000)
	if err := os.WriteFile(filepath.Join(point, "file"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	labtest.Run(t, "sync", "-f", point)
	labtest.Run(t, "umount", point)
	mounted = false
	d.gone(t, server)
	if said := log.text(); !bytes.Contains([]byte(said), []byte("stopped and deleted")) {
		t.Errorf("log:\n%s", said)
	}
	labtest.Run(t, "modprobe", "loop")
	labtest.Run(t, "mount", "-o", "loop", file, point)
	got, err := os.ReadFile(filepath.Join(point, "file"))
	labtest.Run(t, "umount", point)
	if err != nil || !bytes.Equal(got, text) {
		t.Errorf("what was written after the signal: %d bytes, %v", len(got), err)
	}
}

// TestLabForeground serves in the process that was started, until a signal.
func TestLabForeground(t *testing.T) {
	begin(t)
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		cmd := command(t, "add", "-t", "null", "-n", "8", "--foreground", "--name", "front")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line := make([]byte, 100)
		n, err := out.Read(line)
		if got := string(line[:n]); got != "/dev/ublkb8\n" || err != nil {
			t.Errorf("printed %q, %v", got, err)
		}
		d := device{8, "8", "/dev/ublkb8"}
		if server := d.server(t); server != cmd.Process.Pid {
			t.Errorf("process %d serves, not %d", server, cmd.Process.Pid)
		}
		run(t, "list", "--noheadings", "-o", "ID,STATE", "front").prints(t, "8 LIVE\n")
		_ = cmd.Process.Signal(s)
		if code := exitCode(t, "ublk add --foreground", cmd.Wait()); code != 0 {
			t.Errorf("%v: exit code %d, %s", s, code, stderr.String())
		}
		d.gone(t, cmd.Process.Pid)
	}
}
