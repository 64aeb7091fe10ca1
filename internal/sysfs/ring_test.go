package sysfs

import (
	"maps"
	"os"
	"slices"
	"testing"

	"ublk/internal/uring"
)

const ringText = "pos:\t0\nflags:\t02000002\nSqMask:\t0xf\nSqHead:\t20\nSqTail:\t20\nCachedSqHead:\t20\nCqMask:\t0x1f\nCqHead:\t4\nCqTail:\t4\nCachedCqTail:\t4\n" +
	"SQEs:\t1\n   20: opcode:URING_CMD, fd:0, flags:1, off:0, addr:0x0, rw_flags:0x0, buf_index:0 user_data:0\nCQEs:\t0\nSqThread:\t-1\nSqThreadCpu:\t-1\n" +
	"UserFiles:\t3\n    0: /dev/ublkc0\n    1: <none>\n    2: /a\\040b\nUserBufs:\t4\n    0: 0x0/4096\n    1: <none>\n    2: 0x7f0000001000/524288\nPollList:\nCqOverflowList:\n"

func TestParseRing(t *testing.T) {
	ring := parseRing(ringText)
	if ring.CachedSQHead-ring.CachedCQTail != 16 {
		t.Errorf("%d commands in the kernel, want 16", ring.CachedSQHead-ring.CachedCQTail)
	}
	if want := []string{"/dev/ublkc0", "/a b"}; !slices.Equal(ring.Files, want) {
		t.Errorf("files %q, want %q", ring.Files, want)
	}
	if want := map[int]uint64{0: 4096, 2: 524288}; !maps.Equal(ring.Buffers, want) || ring.BufferSlots != 4 {
		t.Errorf("buffers %v of %d, want %v of 4", ring.Buffers, ring.BufferSlots, want)
	}
}

func TestBusyRingSaysNothing(t *testing.T) {
	ring := parseRing("pos:\t0\nflags:\t02\nmnt_id:\t15\n")
	if len(ring.Files) != 0 || ring.CachedSQHead != 0 || ring.BufferSlots != 0 {
		t.Errorf("got %+v", ring)
	}
}

// TestRegisteredFile finds a file that only a ring holds.
func TestRegisteredFile(t *testing.T) {
	ring, err := uring.New(uring.Config{Entries: 4})
	if err != nil {
		t.Skipf("io_uring: %v", err)
	}
	defer ring.Close()
	file, err := os.Open("/dev/zero")
	if err != nil {
		t.Fatal(err)
	}
	if err := ring.RegisterFiles([]int32{int32(file.Fd())}); err != nil {
		t.Fatal(err)
	}
	file.Close()
	rings, err := New("/").Rings(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	index := slices.IndexFunc(rings, func(r Ring) bool { return r.FD == ring.FD() })
	if index < 0 {
		t.Fatalf("ring %d is not among %+v", ring.FD(), rings)
	}
	if files := rings[index].Files; len(files) != 1 || (files[0] != "/dev/zero" && files[0] != "zero") {
		t.Errorf("registered files are %q", files)
	}
	if holds, err := New("/").holdsChar(os.Getpid(), "zero", Dev{1, 9999}); err != nil || !holds {
		t.Errorf("holdsChar: %v, %v", holds, err)
	}
}

func FuzzParseRing(f *testing.F) {
	f.Add(ringText)
	f.Add("UserBufs:\t1\n -1: /\n:\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, file := range parseRing(text).Files {
			if file == "<none>" {
				t.Fatal("an empty slot is a file")
			}
		}
	})
}
