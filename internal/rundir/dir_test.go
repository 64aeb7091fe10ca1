package rundir

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func TestCreateModes(t *testing.T) {
	rootMode := fs.FileMode(0o700)
	if os.Geteuid() == 0 {
		rootMode = 0o755
	}
	for _, umask := range []int{0, 0o077} {
		root := newRoot(t)
		defer syscall.Umask(syscall.Umask(umask))
		d := root.Dir(3)
		if err := errors.Join(d.Create(), d.Create(), d.WriteConfig(Config{Token: 1, BootID: testBoot, ID: 3})); err != nil {
			t.Fatal(err)
		}
		for path, want := range map[string]fs.FileMode{root.Path: rootMode, d.Path: 0o700, d.Config(): 0o600} {
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
				t.Errorf("umask %#o: %s has mode %v (%v), want %v", umask, path, info.Mode(), err, want)
			}
		}
	}
}

func TestCreateRefuses(t *testing.T) {
	breaks := map[string]func(path string) error{
		"symbolic link": func(path string) error { return os.Symlink(filepath.Dir(filepath.Dir(path)), path) },
		"file":          func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"open to all": func(path string) error {
			return errors.Join(os.Mkdir(path, 0o700), os.Chmod(path, 0o777))
		},
	}
	if os.Geteuid() == 0 {
		breaks["other owner"] = func(path string) error {
			return errors.Join(os.Mkdir(path, 0o700), os.Chown(path, 65534, 65534))
		}
	}
	for name, breakIt := range breaks {
		t.Run(name, func(t *testing.T) {
			root := newRoot(t)
			if err := breakIt(root.Path); err != nil {
				t.Fatal(err)
			}
			expectRefused(t, root.Dir(3).Create(), root.Path)
			_, err := root.Lock(t.Context(), 3)
			expectRefused(t, err, root.Path)

			d := newDir(t, 1)
			d = Root{filepath.Dir(d.Path)}.Dir(3)
			if err := breakIt(d.Path); err != nil {
				t.Fatal(err)
			}
			expectRefused(t, d.Create(), d.Path)
			expectRefused(t, d.WriteConfig(Config{Token: 1, BootID: testBoot, ID: 3}), d.Path)
			_, err = d.ReadConfig()
			expectRefused(t, err, d.Path)
		})
	}
}

func expectRefused(t *testing.T, err error, path string) {
	t.Helper()
	if !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), path+" ") {
		t.Errorf("got %v, want ErrForeign about %s", err, path)
	}
}

func TestRemove(t *testing.T) {
	d := newDir(t, 3)
	root := filepath.Dir(d.Path)
	for _, path := range []string{d.Log(), d.Stats(), d.Config(), d.Stats() + ".12"} {
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(d.Remove(), d.Remove()); err != nil {
		t.Fatal(err)
	}
	expectFiles(t, root)

	target := t.TempDir()
	if err := errors.Join(os.WriteFile(filepath.Join(target, "keep"), nil, 0o600), os.Symlink(target, d.Path)); err != nil {
		t.Fatal(err)
	}
	if err := d.Remove(); err != nil {
		t.Fatal(err)
	}
	expectFiles(t, root)
	expectFiles(t, target, "keep")
}

func TestRotateStats(t *testing.T) {
	d := newDir(t, 3)
	if err := d.RotateStats(11); err != nil {
		t.Fatalf("without a page: %v", err)
	}
	if err := d.RotateStats(0); err == nil {
		t.Error("pid 0 is accepted")
	}
	// Names that are no kept pages, and pids in no order.
	if err := os.Mkdir(d.Stats()+".5", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.Stats()+".old", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, pid := range []int{900, 30, 500, 7, 30} {
		if err := os.WriteFile(d.Stats(), []byte(strconv.Itoa(pid)), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := d.RotateStats(pid); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{d.Stats() + ".30", d.Stats() + ".7", d.Stats() + ".500"}
	if got, err := d.OldStats(); err != nil || !slices.Equal(got, want) {
		t.Errorf("OldStats() = %q, %v, want %q", got, err, want)
	}
	expectFiles(t, d.Path, "stats.30", "stats.5", "stats.500", "stats.7", "stats.old")

	if got, err := newRoot(t).Dir(9).OldStats(); err != nil || got != nil {
		t.Errorf("without a folder: %q, %v", got, err)
	}
}
