package faults

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
)

// Of torn writes: one that is large, over content that is older.
const (
	tornAt    = 1 << 20
	tornBytes = 64 << 10
	older     = 1
	newer     = 2
)

// TestLabTornWrite is a write that a kill leaves half done, at the same place
// every time. The next server, which gets it once more, makes it whole.
func TestLabTornWrite(t *testing.T) {
	c := begin(t)
	file := filepath.Join(backing(t), "disk")
	tear := func(seed string, recovery ...string) (int, *os.File, <-chan error, []int) {
		t.Helper()
		writeOlder(t, file)
		id := add(t, append([]string{"-t", "fault", "--on", "loop", "-f", file, "--torn", "100%", "--seed", seed}, recovery...)...)
		f := openDisk(t, id)
		done := writing(f, filled(t, tornBytes, newer), tornAt)
		eventually(t, "half of the write is done", func() bool { return len(blocksOf(t, file, newer)) > 0 })
		kill(t, c, id)
		return id, f, done, blocksOf(t, file, newer)
	}
	id, f, done, torn := tear("7", "--recovery=reissue")
	if n := len(torn); n == 0 || n == tornBytes/512 || torn[n-1] != n-1 {
		t.Errorf("blocks %v of %d were written, want the first ones, not all", torn, tornBytes/512)
	}
	lost(t, c, id, ctrl.Quiesced)
	run(t, "recover", strconv.Itoa(id))
	run(t, "fault", strconv.Itoa(id), "--clear")
	await(t, "the write, sent once more", done)
	if n := len(blocksOf(t, file, newer)); n != tornBytes/512 {
		t.Errorf("%d blocks were written in the end", n)
	}
	_ = f.Close()
	run(t, "del", strconv.Itoa(id))
	id, f, done, again := tear("7")
	<-done // with an error: its device is gone
	_ = f.Close()
	if !slices.Equal(torn, again) {
		t.Errorf("with the same seed blocks %v were written, and before %v", again, torn)
	}
	lost(t, c, id, ctrl.Dead)
}

// TestLabTornCache is a write that was answered and not flushed: some of its
// blocks are on the disk when the power is gone, the same ones every time.
func TestLabTornCache(t *testing.T) {
	c := begin(t)
	file := filepath.Join(backing(t), "disk")
	tear := func(seed string) []int {
		t.Helper()
		writeOlder(t, file)
		id := add(t, "-t", "fault", "--on", "loop", "-f", file, "--volatile-cache", "--torn", "30%", "--seed", seed)
		f := openDisk(t, id)
		await(t, "the write", writing(f, filled(t, tornBytes, newer), tornAt))
		_ = f.Close()
		kill(t, c, id)
		lost(t, c, id, ctrl.Dead)
		run(t, "del", strconv.Itoa(id))
		return blocksOf(t, file, newer)
	}
	first, again, other := tear("7"), tear("7"), tear("8")
	if n := len(first); n < 20 || n > 60 {
		t.Errorf("%d of 128 blocks were written, want 30 %%", n)
	}
	if !slices.Equal(first, again) || slices.Equal(first, other) {
		t.Errorf("with the same seed blocks %v and %v were written, with another one %v", first, again, other)
	}
}

// writeOlder makes the file anew, full of what is older.
func writeOlder(t *testing.T, file string) {
	t.Helper()
	if err := os.WriteFile(file, bytes.Repeat([]byte{older}, 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	unix.Sync()
}

// blocksOf are the blocks of the write that are full of b in the file; others
// must be full of what is older.
func blocksOf(t *testing.T, file string, b byte) (numbers []int) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := make([]byte, tornBytes)
	if _, err := f.ReadAt(got, tornAt); err != nil {
		t.Fatal(err)
	}
	for i := range tornBytes / 512 {
		block := got[i*512:][:512]
		switch {
		case bytes.Equal(block, bytes.Repeat([]byte{b}, 512)):
			numbers = append(numbers, i)
		case !bytes.Equal(block, bytes.Repeat([]byte{older}, 512)):
			t.Errorf("block %d is neither old nor new", i)
		}
	}
	return numbers
}
