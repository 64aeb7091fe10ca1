package cmd

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"ublk/ctrl"
	"ublk/internal/table"
	"ublk/server/target"
)

// noArgs refuses arguments.
func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("argument %q is one too many: the command takes none", args[0])
	}
	return nil
}

// noAddArgs refuses arguments of add, which are most likely the value of an
// option: the type without -t, or the mode of --recovery without the =.
func noAddArgs(cmd *cobra.Command, args []string) error {
	var mode ctrl.Recovery
	switch err := noArgs(cmd, args); {
	case err == nil:
		return nil
	case slices.Contains(target.Names(), args[0]):
		return hinted(err, "Did you mean -t %s?", args[0])
	case mode.UnmarshalText([]byte(args[0])) == nil:
		return hinted(err, "Did you mean --recovery=%s? (with =, for the mode can be left out)", args[0])
	default:
		return err
	}
}

// unknownOption says what was probably meant by an option that does not exist.
func unknownOption(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) || unknown.GetSpecifiedShortnames() != "" {
		return err
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	if near := table.Nearest(unknown.GetSpecifiedName(), names); near != "" {
		return hinted(err, "Did you mean --%s?", near)
	}
	return err
}
