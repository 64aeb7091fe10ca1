// Package target is the list of the targets that this program serves, and the
// way from their options on a command line, or in a state file, to a disk.
package target

import (
	"errors"
	"fmt"
	"strings"

	"ublk/internal/units"
	"ublk/server"
	"ublk/server/target/loop"
	"ublk/server/target/mem"
	"ublk/server/target/null"
)

// OptionKind is what an option's value is.
type OptionKind int

// The kinds of options.
const (
	Size OptionKind = iota // bytes, as package units reads them
	Path                   // a file; made absolute where it is typed
	Bool
	Text
)

// Option is an option of a target.
type Option struct {
	Name    string // long option, e.g. "size"
	Short   string // one letter, or ""
	Kind    OptionKind
	Default string
	Usage   string

	Required bool
}

// Kind is a type of disk.
type Kind struct {
	Name    string
	Summary string
	Options []Option
	open    func(options map[string]string, cfg server.Config) (server.Target, error)
}

// Kinds lists the targets.
func Kinds() []Kind {
	return []Kind{
		{
			Name:    "null",
			Summary: "a disk that forgets: writes go nowhere, reads are zeroes",
			Options: []Option{{Name: "size", Kind: Size, Default: units.FormatSize(null.DefaultSize), Usage: "capacity"}},
			open: func(options map[string]string, _ server.Config) (server.Target, error) {
				size, err := sizeOption(options, "size", null.DefaultSize)
				if err != nil {
					return nil, err
				}
				return null.New(size), nil
			},
		},
		{
			Name:    "loop",
			Summary: "a disk in a regular file or on a block device",
			Options: []Option{
				{Name: "file", Short: "f", Kind: Path, Required: true, Usage: "regular file or block device behind the disk"},
				{Name: "offset", Kind: Size, Default: "0", Usage: "where the disk starts in the file"},
				{Name: "size", Kind: Size, Usage: "capacity, the rest of the file if not given"},
				{Name: "buffered", Kind: Bool, Usage: "through the page cache instead of direct I/O"},
			},
			open: openLoop,
		},
		{
			Name:    "mem",
			Summary: "a RAM disk: memory for what was written, gone with its server",
			Options: []Option{{Name: "size", Kind: Size, Usage: "capacity"}},
			open: func(options map[string]string, _ server.Config) (server.Target, error) {
				if options["size"] == "" {
					return nil, errors.New("target mem needs --size")
				}
				size, err := sizeOption(options, "size", 0)
				if err != nil {
					return nil, err
				}
				return mem.New(size)
			},
		},
	}
}

// Names lists the names of the targets.
func Names() []string {
	var names []string
	for _, k := range Kinds() {
		names = append(names, k.Name)
	}
	return names
}

// Open makes the target of cfg; it is a server.Opener.
func Open(cfg server.Config) (server.Target, error) {
	for _, k := range Kinds() {
		if k.Name != cfg.Type {
			continue
		}
		if err := k.check(cfg.Options); err != nil {
			return nil, err
		}
		return k.open(cfg.Options, cfg)
	}
	return nil, fmt.Errorf("target type %q: one of %s", cfg.Type, strings.Join(Names(), ", "))
}

// check refuses options of other targets.
func (k *Kind) check(options map[string]string) error {
	for name := range options {
		known := false
		for _, o := range k.Options {
			known = known || o.Name == name
		}
		if !known {
			return fmt.Errorf("target %s has no option --%s", k.Name, name)
		}
	}
	return nil
}

func openLoop(options map[string]string, cfg server.Config) (server.Target, error) {
	o := loop.Options{File: options["file"], ReadOnly: cfg.ReadOnly, Buffered: options["buffered"] == "true"}
	if o.File == "" {
		return nil, errors.New("target loop needs --file")
	}
	var err error
	if _, ok := options["size"]; ok {
		if o.Size, err = sizeOption(options, "size", 0); err != nil {
			return nil, err
		}
	}
	if text, ok := options["offset"]; ok {
		n, err := units.ParseSize(text)
		if err != nil || n > 1<<62 {
			return nil, fmt.Errorf("--offset %s: not an offset in a file", text)
		}
		o.Offset = int64(n)
	}
	return loop.Open(o)
}

// sizeOption is the value of a size, or otherwise when it was not given.
func sizeOption(options map[string]string, name string, otherwise int64) (int64, error) {
	text, ok := options[name]
	if !ok {
		return otherwise, nil
	}
	n, err := units.ParseSize(text)
	switch {
	case err != nil:
		return 0, fmt.Errorf("--%s: %w", name, err)
	case n < 512 || n > 1<<62:
		return 0, fmt.Errorf("--%s %s: at least one sector of 512 bytes", name, text)
	}
	return int64(n), nil
}
