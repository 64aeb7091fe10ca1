package rundir

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const testBoot = "8d0f4a7c-0000-4000-8000-000000000001"

// TestMain makes of this binary, started again with RUNDIR_TEST_ROLE, one of the
// other processes that tests need: RUNDIR_TEST_ROLE=role:id, with UBLK_RUNDIR.
func TestMain(m *testing.M) {
	role, arg, found := strings.Cut(os.Getenv("RUNDIR_TEST_ROLE"), ":")
	if !found {
		os.Exit(m.Run())
	}
	id, err := strconv.Atoi(arg)
	if err == nil {
		err = playRole(role, Default(), id)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func playRole(role string, root Root, id int) error {
	ctx := context.Background()
	switch role {
	case "hold":
		if _, err := root.Lock(ctx, id); err != nil {
			return err
		}
		fmt.Println("held")
		select {}
	case "hold-name":
		if _, err := root.ClaimName(ctx, "disk"); err != nil {
			return err
		}
		fmt.Println("held")
		select {}
	case "count":
		return count(root, id)
	case "claim":
		return claim(root, id)
	case "write":
		fmt.Println("writing")
		for n := 0; ; n++ {
			if err := root.Dir(id).WriteConfig(sizedConfig(id, n)); err != nil {
				return err
			}
		}
	}
	return errors.New("no such role")
}

// count increments a number in a file that only the lock protects.
func count(root Root, id int) error {
	for range 100 {
		lock, err := root.Lock(context.Background(), id)
		if err != nil {
			return err
		}
		path := filepath.Join(filepath.Dir(root.Path), "count")
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(string(text))
		if err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(strconv.Itoa(n+1)), 0o600); err != nil {
			return err
		}
		if err := lock.Unlock(); err != nil {
			return err
		}
	}
	return nil
}

// claim gives the name disk to a device, as a server does.
func claim(root Root, id int) error {
	lock, err := root.ClaimName(context.Background(), "disk")
	if errors.Is(err, fs.ErrExist) {
		fmt.Println("taken")
		return nil
	}
	if err != nil {
		return err
	}
	d := root.Dir(id)
	err = errors.Join(d.Create(), d.WriteConfig(Config{Token: NewToken(), BootID: testBoot, ID: id, Name: "disk"}))
	fmt.Println("won")
	return errors.Join(err, lock.Unlock())
}

// sizedConfig returns configurations of very different sizes.
func sizedConfig(id, n int) Config {
	body, err := json.Marshal(strings.Repeat("x", n%7*20_000))
	if err != nil {
		panic(err)
	}
	return Config{Token: uint64(n) + 1, BootID: testBoot, ID: id, Body: body}
}

// start runs a role in another process and returns its output as lines.
func start(t *testing.T, root Root, role string, id int) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "role", role)
	cmd.Env = append(os.Environ(), "UBLK_RUNDIR="+root.Path, fmt.Sprintf("RUNDIR_TEST_ROLE=%s:%d", role, id))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	return cmd, bufio.NewScanner(out)
}

func expectLine(t *testing.T, lines *bufio.Scanner, want string) {
	t.Helper()
	if !lines.Scan() || lines.Text() != want {
		t.Fatalf("the other process says %q, want %q", lines.Text(), want)
	}
}

// kill ends a process that still runs, as kill -9 does, and waits until it is gone.
func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Fatalf("the process ended before it was killed: %v", err)
	}
}

func newRoot(t *testing.T) Root {
	return Root{filepath.Join(t.TempDir(), "ublk")}
}

func newDir(t *testing.T, id int) Dir {
	t.Helper()
	d := newRoot(t).Dir(id)
	if err := d.Create(); err != nil {
		t.Fatal(err)
	}
	return d
}

// expectFiles compares the names in a folder.
func expectFiles(t *testing.T, path string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, entry := range entries {
		got = append(got, entry.Name())
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s holds %q, want %q", path, got, want)
	}
}

func TestDefault(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	t.Setenv("UBLK_RUNDIR", "state")
	if got, want := Default().Path, filepath.Join(dir, "state"); got != want {
		t.Errorf("a relative UBLK_RUNDIR: %s, want %s", got, want)
	}
	t.Setenv("UBLK_RUNDIR", "")
	t.Setenv("XDG_RUNTIME_DIR", dir)
	want := filepath.Join(dir, "ublk")
	if os.Geteuid() == 0 {
		want = "/run/ublk"
	}
	if got := Default().Path; got != want {
		t.Errorf("Default() = %s, want %s", got, want)
	}
}

func TestPaths(t *testing.T) {
	d := Root{"/run/ublk"}.Dir(12)
	for got, want := range map[string]string{
		d.Path: "/run/ublk/12", d.Log(): "/run/ublk/12/log", d.Stats(): "/run/ublk/12/stats",
		d.Socket(): "/run/ublk/12/ctl", d.Config(): "/run/ublk/12/config",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestIDs(t *testing.T) {
	root := newRoot(t)
	if ids, err := root.IDs(); err != nil || ids != nil {
		t.Errorf("without a root: %v, %v", ids, err)
	}
	for _, id := range []int{10, 2, 0} {
		if err := root.Dir(id).Create(); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"03", "+4", "-5", "x", "99999999999999999999"} {
		if err := os.Mkdir(filepath.Join(root.Path, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root.Path, "7"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("2", filepath.Join(root.Path, "8")); err != nil {
		t.Fatal(err)
	}
	if ids, err := root.IDs(); err != nil || !slices.Equal(ids, []int{0, 2, 10}) {
		t.Errorf("IDs() = %v, %v, want 0 2 10", ids, err)
	}
}

func TestLookup(t *testing.T) {
	root := newRoot(t)
	if _, err := root.Lookup("disk"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a root: %v, want fs.ErrNotExist", err)
	}
	for id, name := range []string{"", "disk-0", "disk", ""} {
		d := root.Dir(id)
		if err := d.Create(); err != nil {
			t.Fatal(err)
		}
		if err := d.WriteConfig(Config{Token: 1, BootID: testBoot, ID: id, Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(root.Dir(0).Config(), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(root.Path, "1000"), 0o700); err != nil {
		t.Fatal(err)
	}
	if id, err := root.Lookup("disk"); err != nil || id != 2 {
		t.Errorf("Lookup(disk) = %d, %v, want 2", id, err)
	}
	for _, name := range []string{"", "other", "2"} {
		if _, err := root.Lookup(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Lookup(%q): %v, want fs.ErrNotExist", name, err)
		}
	}
}

func TestValidName(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "disk-1": true, "a.b_c-d": true, "ublkb": true, "ublkc1x": true, "ublkd3": true, "names.lock": true,
		strings.Repeat("a", MaxName): true, strings.Repeat("a", MaxName+1): false,
		"": false, "1": false, "-a": false, ".a": false, "A": false, "aB": false, "a b": false, "a/b": false, "a\n": false,
		"é": false, "aé": false, "a\x00": false, "ublkb0": false, "ublkc12": false, "ublkb007": false,
	} {
		if err := ValidName(name); (err == nil) != want {
			t.Errorf("ValidName(%q) = %v, want valid %t", name, err, want)
		}
	}
}

func FuzzValidName(f *testing.F) {
	grammar, reserved := regexp.MustCompile(`\A[a-z][a-z0-9._-]*\z`), regexp.MustCompile(`\Aublk[bc][0-9]+\z`)
	for _, name := range []string{"disk", "ublkb0", "ublkc", "a\xff", ""} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		want := grammar.MatchString(name) && !reserved.MatchString(name) && len(name) <= MaxName
		if err := ValidName(name); (err == nil) != want {
			t.Errorf("ValidName(%q) = %v, want valid %t", name, err, want)
		}
	})
}
