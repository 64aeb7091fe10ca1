package rundir

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
)

var goodConfig = Config{
	Token: 1<<64 - 1, BootID: testBoot, ID: 3, Name: "disk-1",
	Body: json.RawMessage(`{"type":"loop","file":"/srv/a<b>&é"}`),
}

func TestConfigRoundTrip(t *testing.T) {
	d := newDir(t, 3)
	for _, want := range []Config{goodConfig, {Token: 1, BootID: "x", ID: 3}, goodConfig} {
		if err := d.WriteConfig(want); err != nil {
			t.Fatal(err)
		}
		got, err := d.ReadConfig()
		if err != nil {
			t.Fatal(err)
		}
		if !sameConfig(got, want) {
			t.Errorf("read %+v, want %+v", got, want)
		}
	}
	expectFiles(t, d.Path, "config")
}

// sameConfig compares bodies as JSON: their spelling may change.
func sameConfig(a, b Config) bool {
	var bodyA, bodyB any
	if a.Body != nil && json.Unmarshal(a.Body, &bodyA) != nil || b.Body != nil && json.Unmarshal(b.Body, &bodyB) != nil {
		return false
	}
	a.Body, b.Body = nil, nil
	return reflect.DeepEqual(a, b) && reflect.DeepEqual(bodyA, bodyB)
}

func TestWriteConfigRefuses(t *testing.T) {
	d := newDir(t, 3)
	if err := d.WriteConfig(goodConfig); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"other id":   func(c *Config) { c.ID = 4 },
		"no token":   func(c *Config) { c.Token = 0 },
		"no boot id": func(c *Config) { c.BootID = "" },
		"bad name":   func(c *Config) { c.Name = "ublkb3" },
		"bad body":   func(c *Config) { c.Body = json.RawMessage(`{"a":`) },
		"huge body":  func(c *Config) { c.Body = json.RawMessage(`"` + strings.Repeat("x", maxConfig) + `"`) },
		"deeply nested": func(c *Config) {
			c.Body = json.RawMessage(strings.Repeat("[", 9999) + strings.Repeat("]", 9999))
		},
	} {
		c := goodConfig
		change(&c)
		if err := d.WriteConfig(c); err == nil || !strings.Contains(err.Error(), d.Config()) {
			t.Errorf("%s: got %v, want an error about %s", name, err, d.Config())
		}
	}
	if got, err := d.ReadConfig(); err != nil || !sameConfig(got, goodConfig) {
		t.Errorf("the state before is damaged: %.100s, %v", got.Body, err)
	}
	missing := newRoot(t).Dir(3)
	if err := missing.WriteConfig(goodConfig); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a folder: %v, want fs.ErrNotExist", err)
	}
}

func TestReadConfigErrors(t *testing.T) {
	good, err := encode(goodConfig, 3)
	if err != nil {
		t.Fatal(err)
	}
	other, err := encode(Config{Token: 1, BootID: testBoot, ID: 4}, 4)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		data string
		want error
	}{
		"empty":         {"", ErrTorn},
		"zeroes":        {strings.Repeat("\x00", 512), ErrTorn},
		"garbage":       {"\x7fELF", ErrTorn},
		"half":          {string(good[:len(good)/2]), ErrTorn},
		"twice":         {string(good) + string(good), ErrTorn},
		"edited":        {strings.Replace(string(good), "disk-1", "disk-2", 1), ErrTorn},
		"spaced":        {strings.Replace(string(good), `"id":3`, `"id": 3`, 1), ErrTorn},
		"no config":     {`{"format":"ublk-config","version":1,"sha256":""}`, ErrTorn},
		"null config":   {`{"format":"ublk-config","version":1,"sha256":"` + checksum([]byte("null")) + `","config":null}`, ErrForeign},
		"newer":         {strings.Replace(string(good), `"version":1`, `"version":2`, 1), ErrVersion},
		"newer, other":  {`{"format":"ublk-config","version":9,"sum":{},"config":[1]}`, ErrVersion},
		"version 0":     {`{"format":"ublk-config"}`, ErrForeign},
		"other program": {`{"version":1,"config":{}}`, ErrForeign},
		"null":          {"null", ErrForeign},
		"other device":  {string(other), ErrForeign},
		"huge":          {strings.Repeat(" ", maxConfig+1), ErrForeign},
	} {
		d := newDir(t, 3)
		if err := os.WriteFile(d.Config(), []byte(test.data), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := d.ReadConfig()
		if !errors.Is(err, test.want) || !strings.Contains(err.Error(), d.Config()) || !reflect.DeepEqual(c, Config{}) {
			t.Errorf("%s: got %+v, %v, want %v about %s", name, c, err, test.want, d.Config())
		}
	}
}

func TestReadConfigMissing(t *testing.T) {
	if _, err := newRoot(t).Dir(3).ReadConfig(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a folder: %v, want fs.ErrNotExist", err)
	}
	if _, err := newDir(t, 3).ReadConfig(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a file: %v, want fs.ErrNotExist", err)
	}
}

// What stands in the place of the file must neither be followed nor waited for.
func TestReadConfigNotAFile(t *testing.T) {
	target := newDir(t, 3)
	if err := target.WriteConfig(goodConfig); err != nil {
		t.Fatal(err)
	}
	breaks := map[string]func(path string) error{
		"symbolic link": func(path string) error { return os.Symlink(target.Config(), path) },
		"fifo":          func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"folder":        func(path string) error { return os.Mkdir(path, 0o700) },
		"open to all": func(path string) error {
			data, err := os.ReadFile(target.Config())
			return errors.Join(err, os.WriteFile(path, data, 0o600), os.Chmod(path, 0o666))
		},
	}
	for name, breakIt := range breaks {
		d := newDir(t, 3)
		if err := breakIt(d.Config()); err != nil {
			t.Fatal(err)
		}
		if _, err := d.ReadConfig(); !errors.Is(err, ErrForeign) {
			t.Errorf("%s: %v, want ErrForeign", name, err)
		}
	}
}

// A cut or a flipped bit is found, or it changed nothing (the case of a key).
func TestReadConfigDamage(t *testing.T) {
	good, err := encode(goodConfig, 3)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range len(good) - 1 { // the last byte is the newline
		if _, err := decode(good[:cut], 3); !errors.Is(err, ErrTorn) {
			t.Errorf("cut to %d bytes: %v, want ErrTorn", cut, err)
		}
	}
	for bit := range len(good) * 8 {
		good[bit/8] ^= 1 << (bit % 8)
		if c, err := decode(good, 3); err == nil && !sameConfig(c, goodConfig) {
			t.Errorf("bit %d flipped: accepted as %+v", bit, c)
		}
		good[bit/8] ^= 1 << (bit % 8)
	}
}

func FuzzReadConfig(f *testing.F) {
	good, err := encode(goodConfig, 3)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte{})
	f.Add([]byte(`{"format":"ublk-config","version":2}`))
	f.Add([]byte(`{"format":"ublk-config","version":1,"sha256":"` + checksum([]byte("{}")) + `","config":{}}`))
	d := Root{filepath.Join(f.TempDir(), "ublk")}.Dir(3)
	if err := d.Create(); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(d.Config(), data, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := d.ReadConfig()
		if err != nil {
			if !errors.Is(err, ErrTorn) && !errors.Is(err, ErrVersion) && !errors.Is(err, ErrForeign) {
				t.Errorf("error of no kind: %v", err)
			}
			return
		}
		if err := d.WriteConfig(c); err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if again, err := d.ReadConfig(); err != nil || !sameConfig(c, again) {
			t.Errorf("read %+v, then %+v, %v", c, again, err)
		}
	})
}

// Readers find a whole file at every moment while two processes write it, and
// after both were killed.
func TestWriteConfigAtomic(t *testing.T) {
	d := newDir(t, 3)
	root := Root{filepath.Dir(d.Path)}
	if err := d.WriteConfig(sizedConfig(3, 0)); err != nil {
		t.Fatal(err)
	}
	first, lines := start(t, root, "write", 3)
	expectLine(t, lines, "writing")
	second, lines := start(t, root, "write", 3)
	expectLine(t, lines, "writing")
	seen := map[uint64]bool{}
	for reads := 0; len(seen) < 50 || reads < 500; reads++ {
		c, err := d.ReadConfig()
		if err != nil {
			t.Fatal(err)
		}
		seen[c.Token] = true
	}
	kill(t, first)
	kill(t, second)
	if _, err := d.ReadConfig(); err != nil {
		t.Fatalf("after the writers were killed: %v", err)
	}
	if err := d.WriteConfig(goodConfig); err != nil {
		t.Fatal(err)
	}
	if got, err := d.ReadConfig(); err != nil || !sameConfig(got, goodConfig) {
		t.Errorf("read %+v, %v", got, err)
	}
	expectFiles(t, d.Path, "config")
}

func TestCheck(t *testing.T) {
	for name, test := range map[string]struct {
		config Config
		id     int
		token  uint64
		boot   string
		want   error
	}{
		"same":          {goodConfig, 3, goodConfig.Token, testBoot, nil},
		"other id":      {goodConfig, 4, goodConfig.Token, testBoot, ErrForeign},
		"other token":   {goodConfig, 3, 5, testBoot, ErrForeign},
		"other boot":    {goodConfig, 3, goodConfig.Token, "y", ErrForeign},
		"token 0 twice": {Config{ID: 3, BootID: testBoot}, 3, 0, testBoot, ErrForeign},
	} {
		if err := test.config.Check(test.id, test.token, test.boot); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
}

func TestTokenAndBootID(t *testing.T) {
	if a, b := NewToken(), NewToken(); a == 0 || b == 0 || a == b {
		t.Errorf("tokens %d and %d", a, b)
	}
	a, err := BootID()
	if err != nil {
		t.Fatal(err)
	}
	if b, err := BootID(); err != nil || a != b || len(a) != 36 {
		t.Errorf("boot ids %q and %q, %v", a, b, err)
	}
}
