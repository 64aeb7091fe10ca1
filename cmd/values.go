package cmd

import (
	"fmt"
	"strconv"

	"github.com/spf13/pflag"

	"ublk/internal/units"
)

// parsed is an option whose value is checked while the command line is read.
type parsed[T any] struct {
	into  *T
	parse func(string) (T, error)
	text  string // as typed
}

// option adds an option with a value that parse understands. The usage names
// the value in backquotes.
func option[T any](flags *pflag.FlagSet, into *T, name, short, otherwise, usage string, parse func(string) (T, error)) {
	flags.VarP(&parsed[T]{into: into, parse: parse, text: otherwise}, name, short, usage)
}

func (p *parsed[T]) Set(text string) error {
	value, err := p.parse(text)
	if err != nil {
		return err
	}
	*p.into, p.text = value, text
	return nil
}

func (p *parsed[T]) String() string { return p.text }

// Type is not "string", of which the help would quote the default.
func (p *parsed[T]) Type() string { return "value" }

// number parses whole numbers of a range.
func number(least, most int) func(string) (int, error) {
	return func(text string) (int, error) {
		n, err := strconv.Atoi(text)
		if err != nil || n < least || n > most {
			return 0, fmt.Errorf("a number from %d to %d", least, most)
		}
		return n, nil
	}
}

// sectorSize parses a size in bytes of whole sectors, as units.ParseSize reads it.
func sectorSize(text string) (uint64, error) {
	n, err := units.ParseSize(text)
	if err == nil && n%512 != 0 {
		err = fmt.Errorf("size %q is not a multiple of a sector, 512 bytes", text)
	}
	return n, err
}
