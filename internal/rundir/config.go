package rundir

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	// format tells our state files from other JSON.
	format = "ublk-config"
	// version counts up with every change to Config or to the file around it,
	// a new field as well: an older program would drop it silently.
	version = 1
	// maxConfig bounds the file, in bytes.
	maxConfig = 1 << 20
)

var (
	// ErrTorn is the error for a state file that is incomplete or was edited.
	ErrTorn = errors.New("torn state file")
	// ErrVersion is the error for a state file of a newer release.
	ErrVersion = errors.New("state file of a newer release")
	// ErrForeign is the error for state that is not that of this device: of
	// another one that had the same id, of another user, of another program.
	ErrForeign = errors.New("foreign state")
)

// Config is what is remembered of a device that a kernel does not know.
type Config struct {
	Token  uint64          `json:"token,string"`   // the ublksrv_flags of ADD_DEV, from NewToken
	BootID string          `json:"boot_id"`        // from BootID, when the device was added
	ID     int             `json:"id"`             // device number
	Name   string          `json:"name,omitempty"` // see ValidName; "" for none
	Body   json.RawMessage `json:"body,omitempty"` // of the server: any JSON
}

// file is the state file: the checksum is over the bytes of Config as they are
// in the file, so it does not depend on how a release writes JSON.
type file struct {
	Format  string          `json:"format"`
	Version int             `json:"version"`
	SHA256  string          `json:"sha256"`
	Config  json.RawMessage `json:"config"`
}

// NewToken returns the random number that tells a device from every other one
// that has or had its id. It is never 0, which is what other programs leave there.
func NewToken() uint64 {
	for {
		var random [8]byte
		rand.Read(random[:]) // cannot fail since Go 1.24
		if token := binary.LittleEndian.Uint64(random[:]); token != 0 {
			return token
		}
	}
}

// BootID returns the random name of this run of the kernel.
func BootID() (string, error) {
	const path = "/proc/sys/kernel/random/boot_id"
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	id := string(bytes.TrimSpace(data))
	if id == "" {
		return "", fmt.Errorf("%s is empty", path)
	}
	return id, nil
}

// Check compares the state with the device that the kernel has under this id:
// token is its ublksrv_flags, bootID that of the running kernel. The error is
// ErrForeign if the state is that of an earlier device.
func (c Config) Check(id int, token uint64, bootID string) error {
	var what string
	switch {
	case c.ID != id:
		what = fmt.Sprintf("is that of device %d", c.ID)
	case c.BootID != bootID:
		what = "is from before the last boot"
	case c.Token != token || token == 0:
		what = "is that of an earlier device with the same id"
	default:
		return nil
	}
	return fmt.Errorf("remembered state of device %d %s: remove its state folder (%w)", id, what, ErrForeign)
}

// WriteConfig replaces the state file, which is whole at every moment: the old
// one or the new one, also when the machine goes down. Create comes first.
// Several writers take turns.
func (d Dir) WriteConfig(c Config) error {
	data, err := encode(c, d.ID)
	if err != nil {
		return fmt.Errorf("state file %s not written: %w", d.Config(), err)
	}
	dir, err := openDir(d.Path)
	if err != nil {
		return err
	}
	defer dir.Close()
	// The lock makes one temporary name enough: what a killed writer left is
	// overwritten by the next. Nobody else can open the folder to hold the lock.
	if err := flock(dir, unix.LOCK_EX); err != nil {
		return err
	}
	temporary := filepath.Join(d.Path, "config.tmp")
	if err := writeSynced(temporary, data); err != nil {
		os.Remove(temporary)
		return fmt.Errorf("state file %s unchanged: %w", d.Config(), err)
	}
	if err := os.Rename(temporary, d.Config()); err != nil {
		os.Remove(temporary)
		return err
	}
	return dir.Sync()
}

// writeSynced writes a new file to the disk.
func writeSynced(path string, data []byte) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// ReadConfig returns the state that WriteConfig wrote. Anything else is an error
// that says what to do, never a guess: fs.ErrNotExist, ErrTorn, ErrVersion,
// ErrForeign. Whether it is the state of the device that the kernel has now,
// Config.Check tells.
func (d Dir) ReadConfig() (Config, error) {
	data, err := d.readFile()
	if err != nil {
		return Config{}, err
	}
	c, err := decode(data, d.ID)
	switch {
	case errors.Is(err, ErrVersion):
		return Config{}, fmt.Errorf("state file %s: %w: use the ublk that wrote it", d.Config(), err)
	case errors.Is(err, ErrForeign):
		return Config{}, fmt.Errorf("state file %s: %w: remove %s", d.Config(), err, d.Path)
	case err != nil:
		return Config{}, fmt.Errorf("state file %s: %w", d.Config(), err)
	}
	return c, nil
}

// readFile reads the state file if it can only have come from us.
func (d Dir) readFile() ([]byte, error) {
	dir, err := openDir(d.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("device %d has no state folder, it is not one of ours: %w", d.ID, err)
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	// Without O_NONBLOCK a FIFO would hold us.
	f, err := os.OpenFile(d.Config(), unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("device %d has no state file, as one that was never added completely: %w", d.ID, err)
	case errors.Is(err, unix.ELOOP):
		return nil, fmt.Errorf("state file %s is a symbolic link: remove %s: %w", d.Config(), d.Path, ErrForeign)
	case err != nil:
		return nil, fmt.Errorf("state file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxConfig {
		return nil, fmt.Errorf("state file %s is no file or larger than %d bytes: remove %s: %w", d.Config(), maxConfig, d.Path, ErrForeign)
	}
	if err := checkOwner(d.Config(), info); err != nil {
		return nil, fmt.Errorf("state file %w", err)
	}
	return io.ReadAll(io.LimitReader(f, maxConfig))
}

// encode returns the state file of the device id.
func encode(c Config, id int) ([]byte, error) {
	if err := c.validate(id); err != nil {
		return nil, err
	}
	config, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(file{Format: format, Version: version, SHA256: checksum(config), Config: config})
	if err != nil {
		return nil, err
	}
	if len(data) >= maxConfig {
		return nil, fmt.Errorf("%d bytes of configuration, at most %d can be remembered", len(data), maxConfig)
	}
	// Never replace what can be read by what cannot: nesting has a limit too.
	if _, err := decode(data, id); err != nil {
		return nil, err
	}
	return append(data, '\n'), nil
}

// decode reads a state file of the device id.
func decode(data []byte, id int) (Config, error) {
	// Of a newer file no more is known than that it has these two.
	var head struct {
		Format  *string
		Version int
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return Config{}, fmt.Errorf("%w (%w)", ErrTorn, err)
	}
	switch {
	case head.Format == nil || *head.Format != format || head.Version < 1:
		return Config{}, fmt.Errorf("%w: not a file of ublk", ErrForeign)
	case head.Version > version:
		return Config{}, fmt.Errorf("%w: version %d, this one knows %d", ErrVersion, head.Version, version)
	}
	var f file
	if err := json.Unmarshal(data, &f); err != nil {
		return Config{}, fmt.Errorf("%w (%w)", ErrTorn, err)
	}
	if f.SHA256 != checksum(f.Config) {
		return Config{}, fmt.Errorf("%w: the checksum does not match", ErrTorn)
	}
	var c Config
	if err := json.Unmarshal(f.Config, &c); err != nil {
		return Config{}, fmt.Errorf("%w (%w)", ErrTorn, err)
	}
	if err := c.validate(id); err != nil {
		return Config{}, fmt.Errorf("%w: %w", ErrForeign, err)
	}
	return c, nil
}

// validate refuses what Check could mistake for another device's.
func (c Config) validate(id int) error {
	if c.ID != id {
		return fmt.Errorf("that of device %d, not %d", c.ID, id)
	}
	if c.Token == 0 || c.BootID == "" {
		return errors.New("no token or no boot id")
	}
	if c.Name != "" {
		return ValidName(c.Name)
	}
	return nil
}

func checksum(config []byte) string {
	sum := sha256.Sum256(config)
	return hex.EncodeToString(sum[:])
}
