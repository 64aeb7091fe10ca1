package faults

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"ublk/internal/labtest"
)

// TestLabFileSystems makes file systems on a loop, fills them with a tree of
// files, and finds everything again after a remount and a check.
func TestLabFileSystems(t *testing.T) {
	begin(t)
	dir := backing(t)
	for _, tt := range []struct{ name, options, check string }{
		{"ext4", "-F -i 4096", "e2fsck -f -n"}, // an inode for every block
		{"xfs", "-f", "xfs_repair -n"},
		{"btrfs", "-f", "btrfs check"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := sparse(t, filepath.Join(dir, "disk"), int64(labtest.Times(400, 700))<<20)
			id := add(t, "-t", "loop", "-f", file, "-q", "2")
			mnt := t.TempDir()
			labtest.Run(t, "sh", "-c", "mkfs."+tt.name+" -q "+tt.options+" "+node(id))
			mount(t, node(id), mnt)
			n := labtest.Times(2000, 64000) // as many as a kernel's source has, about
			unpack(t, mnt, n)
			labtest.Run(t, "umount", mnt)
			mount(t, node(id), mnt)
			compareTree(t, mnt, n)
			labtest.Run(t, "umount", mnt)
			labtest.Run(t, "sh", "-c", tt.check+" "+node(id))
			run(t, "del", strconv.Itoa(id))
		})
	}
}

// place is where the i-th file of a tree is: 40 in a folder, folders in folders.
func place(dir string, i int) string {
	folder := i / 40
	return filepath.Join(dir, fmt.Sprintf("d%d", folder%7), fmt.Sprintf("d%d", folder), fmt.Sprintf("file-%d", i))
}

// unpack makes the tree as an archiver does: under a name that is not the last,
// with every tenth a link, and some that do not stay.
func unpack(t *testing.T, dir string, n int) {
	t.Helper()
	for i := range n {
		path := place(dir, i)
		if i%40 == 0 {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		var err error
		if i%10 == 9 {
			err = os.Symlink(filepath.Base(place(dir, i-1)), path)
		} else if err = os.WriteFile(path+".part", leafOf(path), 0o644); err == nil {
			err = os.Rename(path+".part", path)
		}
		if err == nil && i%20 == 5 {
			err = os.Remove(path)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func compareTree(t *testing.T, dir string, n int) {
	t.Helper()
	for i := range n {
		path := place(dir, i)
		want := leafOf(path)
		if i%10 == 9 {
			want = leafOf(place(dir, i-1))
		}
		got, err := os.ReadFile(path)
		switch {
		case i%20 == 5:
			if err == nil {
				t.Errorf("%s is there again", path)
			}
		case err != nil || string(got) != string(want):
			t.Errorf("%s has %d bytes, want %d: %v", path, len(got), len(want), err)
		}
	}
	files := 0
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			files++
		}
		return err
	})
	if want := n - n/20; err != nil || files != want {
		t.Errorf("%d files, want %d: %v", files, want, err)
	}
}

// leafOf is the content of a file in a tree: some hundred bytes to 5 KB.
func leafOf(path string) []byte {
	content := contentOf(filepath.Base(path))
	return content[:len(content)/4]
}
