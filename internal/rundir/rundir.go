// Package rundir keeps what must outlive the server of a device: under ROOT/ID/
// the configuration to recover from, the log, the statistics page and the
// control socket, and the locks that order what several commands do to one
// device.
//
//	ROOT/3/config     what a new server needs to know, see Config
//	ROOT/3/log        standard error of the server
//	ROOT/3/stats      the statistics page of the server that runs
//	ROOT/3/stats.812  the page of a server that died, see Dir.RotateStats
//	ROOT/3/ctl        unix socket of the server
//	ROOT/3.lock       see Root.Lock
//	ROOT/names.lock   see Root.ClaimName
//
// Everything is the user's alone: folders are 0700 and files 0600, except that
// ROOT of root itself can be listed. A folder that is a symbolic link, belongs
// to somebody else or can be written by everybody is refused. Below a folder
// that was accepted nobody else can swap anything, so plain paths are safe there.
package rundir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// MaxName is the longest name that a device can have, in bytes.
const MaxName = 64

// Root is the folder that holds the state of all devices of one user. Its
// methods can be called from any goroutine and any process.
type Root struct{ Path string }

// Default returns the state folder of this process: $UBLK_RUNDIR if that is
// set, /run/ublk for root, $XDG_RUNTIME_DIR/ublk for everybody else. The path
// is absolute as long as there is a working directory, for a server leaves it.
func Default() Root {
	if path := os.Getenv("UBLK_RUNDIR"); path != "" {
		if absolute, err := filepath.Abs(path); err == nil {
			path = absolute
		}
		return Root{path}
	}
	if os.Geteuid() == 0 {
		return Root{"/run/ublk"}
	}
	// The specification of XDG_RUNTIME_DIR has relative paths ignored; the other
	// is where every login manager puts it.
	runtime := os.Getenv("XDG_RUNTIME_DIR")
	if !filepath.IsAbs(runtime) {
		runtime = filepath.Join("/run/user", strconv.Itoa(os.Geteuid()))
	}
	return Root{filepath.Join(runtime, "ublk")}
}

// Dir returns the folder of a device, whether it exists or not.
func (r Root) Dir(id int) Dir {
	return Dir{Path: filepath.Join(r.Path, strconv.Itoa(id)), ID: id}
}

// IDs returns the devices that have a folder, in ascending order. That the
// folder is there says nothing about the device. No root means no devices.
func (r Root) IDs() ([]int, error) {
	entries, err := os.ReadDir(r.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("state folder: %w", err)
	}
	var ids []int
	for _, entry := range entries {
		id, err := strconv.Atoi(entry.Name())
		// Dir would not lead back to 03 or +3.
		if err != nil || id < 0 || strconv.Itoa(id) != entry.Name() || !entry.IsDir() {
			continue
		}
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids, nil
}

// Lookup returns the device that was given this name, or an error that is
// fs.ErrNotExist. The answer is what the state folder says: Config.Check tells
// whether the device of that id is still the one. Devices whose configuration
// cannot be read have no name.
func (r Root) Lookup(name string) (id int, err error) {
	ids, err := r.IDs()
	if err != nil {
		return 0, err
	}
	for _, id := range ids {
		if config, err := r.Dir(id).ReadConfig(); err == nil && name != "" && config.Name == name {
			return id, nil
		}
	}
	return 0, fmt.Errorf("no device is named %q (names are remembered in %s): %w", name, r.Path, fs.ErrNotExist)
}

// create makes the root if it is not there.
func (r Root) create() error {
	mode := fs.FileMode(0o700)
	if os.Geteuid() == 0 {
		mode = 0o755
	}
	return makeDir(r.Path, mode)
}

// ValidName tells whether a device can be given this name:
// [a-z][a-z0-9._-]*, at most MaxName bytes, and not the ublkbN or ublkcN of
// some device. No name can be mistaken for an id or a path.
func ValidName(name string) error {
	switch {
	case name == "":
		return errors.New("device name is empty: a name is like disk-1")
	case len(name) > MaxName:
		return fmt.Errorf("device name %q is longer than %d bytes", name, MaxName)
	case name[0] < 'a' || name[0] > 'z':
		return fmt.Errorf("device name %q: the first character must be a letter a to z", name)
	}
	for _, c := range name {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && !strings.ContainsRune("._-", c) {
			return fmt.Errorf("device name %q: %q is not one of a to z, 0 to 9, dot, underscore and minus", name, c)
		}
	}
	for _, prefix := range []string{"ublkb", "ublkc"} {
		if digits, found := strings.CutPrefix(name, prefix); found && digits != "" && strings.Trim(digits, "0123456789") == "" {
			return fmt.Errorf("device name %q is the kernel's own name of a device: choose another", name)
		}
	}
	return nil
}
