package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/internal/labtest"
)

// TestLabPowerCut kills, under load, the server of a disk that then forgets all
// that was not flushed. To the file system on it that is a loss of power, and it
// must be at its end, too: a host that lives on takes the lost writes for
// written, and a reissued flush cannot bring them back. So its device goes with
// the server, and what the file has becomes a new disk: the file system's
// journal is replayed, its check is clean, and every file that was synced is
// there and whole.
func TestLabPowerCut(t *testing.T) {
	c := begin(t)
	dir := backing(t)
	file := sparse(t, filepath.Join(dir, "disk"), 128<<20)
	first := add(t, "-t", "loop", "-f", file)
	labtest.Run(t, "mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0", node(first))
	run(t, "del", strconv.Itoa(first))
	mnt := t.TempDir()
	var synced []string
	for round := range labtest.Times(5, 20) {
		id := add(t, "-t", "fault", "--on", "loop", "-f", file, "--volatile-cache", "--torn", "30%", "--seed", strconv.Itoa(round), "-q", "2")
		mount(t, node(id), mnt)
		w := startWriters(mnt, round)
		eventually(t, "files are synced", func() bool { return w.count() >= 8+round%7 })
		kill(t, c, id)
		recent := w.stop()
		synced = append(synced, recent...)
		lost(t, c, id, ctrl.Dead)
		if err := unix.Unmount(mnt, 0); err != nil {
			t.Fatal(err)
		}
		run(t, "del", strconv.Itoa(id))
		checkSynced(t, file, mnt, recent)
	}
	checkSynced(t, file, mnt, synced)
	t.Logf("%d synced files survived", len(synced))
}

// TestLabVolatileCache is what the power cuts above rest on: a kill loses what
// was not flushed, and nothing else.
func TestLabVolatileCache(t *testing.T) {
	c := begin(t)
	file := sparse(t, filepath.Join(backing(t), "disk"), 16<<20)
	id := add(t, "-t", "fault", "--on", "loop", "-f", file, "--volatile-cache", "--recovery=reissue")
	f := openDisk(t, id)
	const flushed, loose, stable = 0, 1 << 20, 2 << 20
	await(t, "a write", writing(f, page(t, 1), flushed))
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if n, err := unix.Pwritev2(int(f.Fd()), [][]byte{page(t, 4)}, stable, unix.RWF_DSYNC); n != 4096 || err != nil {
		t.Fatal(n, err)
	}
	await(t, "a write over it", writing(f, page(t, 2), flushed))
	await(t, "a write elsewhere", writing(f, page(t, 3), loose))
	holds(t, f, flushed, 2)
	holds(t, f, loose, 3)
	kill(t, c, id)
	lost(t, c, id, ctrl.Quiesced)
	run(t, "recover", strconv.Itoa(id))
	holds(t, f, flushed, 1)
	holds(t, f, loose, 0)
	holds(t, f, stable, 4)
	await(t, "a last write", writing(f, page(t, 5), loose))
	_ = f.Close()
	run(t, "del", strconv.Itoa(id)) // an orderly end: nothing is lost
	content, err := os.ReadFile(file)
	if err != nil || content[loose] != 5 {
		t.Errorf("an orderly end lost a write: %v", err)
	}
}

// checkSynced makes a disk of what is in the file and looks at it.
func checkSynced(t *testing.T, file, mnt string, synced []string) {
	t.Helper()
	id := add(t, "-t", "loop", "-f", file)
	mount(t, node(id), mnt)
	for _, name := range synced {
		got, err := os.ReadFile(filepath.Join(mnt, name))
		if err != nil || string(got) != string(contentOf(name)) {
			t.Errorf("%s was synced, and has %d bytes that are not its own: %v", name, len(got), err)
		}
	}
	labtest.Run(t, "umount", mnt)
	labtest.Run(t, "e2fsck", "-f", "-n", node(id))
	run(t, "del", strconv.Itoa(id))
}

// writers write files, some synced, until they meet an error or are stopped.
type writers struct {
	mu     sync.Mutex
	synced []string
	quit   chan struct{}
	wg     sync.WaitGroup
}

func startWriters(dir string, round int) *writers {
	w := &writers{quit: make(chan struct{})}
	for n := range 3 {
		w.wg.Go(func() {
			for i := 0; !w.stopped(); i++ {
				name := fmt.Sprintf("synced-%d-%d-%d", round, n, i)
				if writeSynced(dir, name) != nil {
					return
				}
				w.mu.Lock()
				w.synced = append(w.synced, name)
				w.mu.Unlock()
			}
		})
	}
	w.wg.Go(func() { // what nobody promised to keep: made, written over, removed
		for i := 0; !w.stopped(); i++ {
			name := filepath.Join(dir, fmt.Sprintf("loose-%d", i%20))
			if os.WriteFile(name, contentOf(name), 0o600) != nil || i%3 == 0 && os.Remove(name) != nil {
				return
			}
			unix.Sync()
			time.Sleep(time.Millisecond)
		}
	})
	return w
}

func (w *writers) stopped() bool {
	select {
	case <-w.quit:
		return true
	default:
		return false
	}
}

func (w *writers) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.synced)
}

// stop waits for the writers and returns what they have synced.
func (w *writers) stop() []string {
	close(w.quit)
	w.wg.Wait()
	return w.synced
}

// writeSynced returns nil when the file is safe: its content and its name.
func writeSynced(dir, name string) error {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(contentOf(name)); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// contentOf is the content of a file, which only its name decides: 1 to 20 KB.
func contentOf(name string) []byte {
	sum := 0
	for _, b := range []byte(name) {
		sum = sum*31 + int(b)
	}
	content := make([]byte, 1000+(sum&0x7fffffff)%20000)
	for i := range content {
		content[i] = name[i%len(name)]
	}
	return content
}
