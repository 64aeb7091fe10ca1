package watch

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// fakeMachine is a root folder with a mount table and block devices. A link named
// trap stands for what would hang: whoever reads below it fails the test.
func fakeMachine(t *testing.T, mounts string, links, files map[string]string) *stack {
	t.Helper()
	root := t.TempDir()
	make := func(path string) string {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for path, text := range files {
		if err := os.WriteFile(make(path), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for path, to := range links {
		if err := os.Symlink(to, make(path)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(make("proc/self/mountinfo"), []byte(mounts), 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := newStack(root)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const mountTable = `21 1 8:1 / / rw - ext4 /dev/sda1 rw
22 21 0:5 / /dev rw - devtmpfs udev rw
30 21 259:0 / /srv/a\040b rw - ext4 /dev/ublkb0 rw
31 21 259:2 / /part rw shared:1 - xfs /dev/ublkb1p1 rw
32 21 253:0 / /lv rw - ext4 /dev/mapper/vg-lv rw
33 21 7:0 / /looped rw - ext4 /dev/loop0 rw
34 31 0:40 / /part/tmp rw - tmpfs tmpfs rw
35 21 0:50 / /btr rw - btrfs /dev/dm-1 rw
`

func testMachine(t *testing.T) *stack {
	return fakeMachine(t, mountTable,
		map[string]string{
			"sys/dev/block/259:0":                          "../../devices/virtual/block/ublkb0",
			"sys/dev/block/259:2":                          "../../devices/virtual/block/ublkb1/ublkb1p1",
			"sys/dev/block/253:0":                          "../../devices/virtual/block/dm-0",
			"sys/dev/block/7:0":                            "../../devices/virtual/block/loop0",
			"sys/dev/block/8:1":                            "../../devices/pci/block/sda/sda1",
			"sys/devices/virtual/block/dm-0/slaves/ublkb0": "../../ublkb0",
			"sys/devices/virtual/block/dm-0/slaves/sdb":    "../../../../pci/block/sdb",
			"home/link":                                    "../srv/a b/disk",
			"home/loop":                                    "loop",
			"data":                                         "/part/deep",
		},
		map[string]string{
			"sys/devices/virtual/block/ublkb0/dev":                "259:0\n",
			"sys/devices/virtual/block/ublkb1/dev":                "259:1\n",
			"sys/devices/virtual/block/ublkb1/ublkb1p1/dev":       "259:2\n",
			"sys/devices/virtual/block/ublkb1/ublkb1p1/partition": "1\n",
			"sys/devices/virtual/block/dm-0/dev":                  "253:0\n",
			"sys/devices/virtual/block/loop0/loop/backing_file":   "/part/image\n",
			"sys/devices/pci/block/sda/sda1/partition":            "1\n",
			"sys/devices/pci/block/sda/dev":                       "8:0\n",
			"sys/devices/pci/block/sdb/dev":                       "8:16\n",
			"home/disk":                                           "",
			"srv/keep":                                            "",
		})
}

func TestBelow(t *testing.T) {
	s := testMachine(t)
	for _, tt := range []struct {
		path string
		want []int
	}{
		{"/home/disk", nil},
		{"/home/none", nil},
		{"/srv/a b/disk", []int{0}},
		{"/srv/a b", []int{0}},
		{"/srv/a bc/disk", nil},
		{"/part/disk", []int{1}},
		{"/part/tmp/disk", []int{1}}, // the way to it is on the partition
		{"/lv/disk", []int{0}},
		{"/looped/disk", []int{1}},
		{"/home/link", []int{0}},
		{"/data/disk", []int{1}},
		{"/home/../part/./x", []int{1}},
		{"/btr/disk", nil},
	} {
		got, err := s.below(tt.path)
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("below %s: %v, %v, want %v", tt.path, got, err, tt.want)
		}
	}
	if _, err := s.below("/home/loop"); err == nil || !strings.Contains(err.Error(), "too many") {
		t.Errorf("a link to itself: %v", err)
	}
}

func FuzzParseMounts(f *testing.F) {
	f.Add(mountTable)
	f.Add(`1 2 3:4 / /\04 - `)
	f.Fuzz(func(t *testing.T, text string) {
		for _, m := range parseMounts(text) {
			if m.dev == "" || m.point == "" {
				t.Errorf("%q gives %+v", text, m)
			}
		}
	})
}
