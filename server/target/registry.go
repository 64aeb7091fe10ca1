// Package target is the list of the targets that this program serves, and the
// way from their options on a command line, or in a state file, to a disk.
package target

import (
	"errors"
	"fmt"
	"maps"
	"slices"
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
	Usage   string // with the name of a Text's value in backquotes

	Required bool
	Words    []string           // values, for completion
	Check    func(string) error // says what is wrong with a value; nil: nothing
}

// Kind is a type of disk.
type Kind struct {
	Name    string
	Summary string
	Options []Option
	Wraps   string // option that names another type, whose options belong to the disk, too; "": none
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
				{Name: "shared", Kind: Bool, Usage: "others may write to the file as well: neither lock it nor insist on having the block device alone"},
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
		{
			Name:    "fault",
			Summary: "another disk made slow and faulty, as told",
			Options: faultOptions(),
			Wraps:   "on",
			open:    openFault,
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
	if err := Check(cfg); err != nil {
		return nil, err
	}
	k, _ := find(cfg.Type)
	return k.open(cfg.Options, cfg)
}

func find(name string) (Kind, error) {
	for _, k := range Kinds() {
		if k.Name == name {
			return k, nil
		}
	}
	return Kind{}, fmt.Errorf("target type %q: one of %s", name, strings.Join(Names(), ", "))
}

// Check refuses options of other targets than cfg's, and the lack of those that
// must be there.
func Check(cfg server.Config) error {
	k, err := find(cfg.Type)
	if err != nil {
		return err
	}
	options, name := k.Options, k.Name
	if inner := cfg.Options[k.Wraps]; k.Wraps != "" && inner != "" {
		on, err := find(inner)
		if err != nil || on.Wraps != "" {
			return fmt.Errorf("--%s %s: a target that can be wrapped", k.Wraps, inner)
		}
		options, name = slices.Concat(options, on.Options), k.Name+" on "+on.Name
	}
	for _, o := range options {
		if o.Required && cfg.Options[o.Name] == "" {
			return fmt.Errorf("target %s needs --%s", name, o.Name)
		}
	}
	for _, given := range slices.Sorted(maps.Keys(cfg.Options)) {
		if !slices.ContainsFunc(options, func(o Option) bool { return o.Name == given }) {
			return fmt.Errorf("target %s has no option --%s", name, given)
		}
	}
	return nil
}

func openLoop(options map[string]string, cfg server.Config) (server.Target, error) {
	o := loop.Options{File: options["file"], ReadOnly: cfg.ReadOnly, Buffered: options["buffered"] == "true", Shared: options["shared"] == "true"}
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
