package cmd

import (
	"github.com/spf13/cobra"

	"ublk/internal/table"
)

// outputOptions are the options of every command that prints a table.
type outputOptions struct {
	table            table.Options
	json, raw, pairs bool
}

// flags adds the options to cmd, with the columns of t in its help and in the
// completion.
func addOutputFlags[T any](cmd *cobra.Command, o *outputOptions, t table.Table[T]) {
	flags := cmd.Flags()
	flags.StringVarP(&o.table.Output, "output", "o", "", "columns `COL,...` to print; +COL adds to the usual ones")
	flags.BoolVar(&o.table.All, "output-all", false, "print all columns")
	flags.BoolVarP(&o.json, "json", "J", false, "print JSON")
	flags.BoolVar(&o.raw, "raw", false, "print columns with one space between them")
	flags.BoolVarP(&o.pairs, "pairs", "P", false, `print COLUMN="value" pairs`)
	flags.BoolVar(&o.table.NoHeadings, "noheadings", false, "print no headings")
	flags.BoolVarP(&o.table.Bytes, "bytes", "b", false, "print sizes in bytes")
	flags.StringVarP(&o.table.Sort, "sort", "s", "", "sort by column `COL`")
	cmd.MarkFlagsMutuallyExclusive("json", "raw", "pairs")
	cmd.MarkFlagsMutuallyExclusive("output", "output-all")
	cmd.Long += "\n\nColumns:\n" + t.Help()
	complete := func(list bool) cobra.CompletionFunc {
		return func(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
			return t.Complete(typed, list), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
		}
	}
	_ = cmd.RegisterFlagCompletionFunc("output", complete(true))
	_ = cmd.RegisterFlagCompletionFunc("sort", complete(false))
}

// options are those of package table.
func (o *outputOptions) options() table.Options {
	options := o.table
	switch {
	case o.json:
		options.Format = table.JSON
	case o.raw:
		options.Format = table.Raw
	case o.pairs:
		options.Format = table.Pairs
	}
	return options
}

// check finds wrong columns before anything is asked of the system, and tells
// which columns will be printed.
func checkColumns[T any](t table.Table[T], o table.Options) (keys map[string]bool, err error) {
	columns, err := t.Select(o)
	if err != nil {
		return nil, err
	}
	keys = map[string]bool{}
	for _, column := range columns {
		keys[column.Key] = true
	}
	if o.Sort != "" {
		column, err := t.Column(o.Sort)
		if err != nil {
			return nil, err
		}
		keys[column.Key] = true
	}
	return keys, nil
}
