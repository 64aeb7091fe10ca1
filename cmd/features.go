package cmd

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"ublk/ctrl"
	"ublk/internal/table"
)

type featuresOptions struct{ output outputOptions }

// featureRow is a feature and whether this kernel has it.
type featureRow struct {
	ctrl.Feature
	have bool
}

func featureTable() table.Table[featureRow] {
	return table.Table[featureRow]{
		Plural:  "features",
		Default: []string{"FEATURE", "HERE", "SINCE", "HELP"},
		Columns: []table.Column[featureRow]{
			{Name: "FEATURE", Key: "name", Help: "name in ublk_cmd.h", Value: func(f featureRow) table.Value { return table.String(f.Name) }},
			{Name: "HERE", Key: "supported", Help: "whether this kernel has it", Value: func(f featureRow) table.Value {
				return table.Custom(map[bool]string{true: "yes", false: "no"}[f.have], f.have)
			}},
			{Name: "SINCE", Key: "since", Help: "first release of Linux that has it", Value: func(f featureRow) table.Value { return orNull(f.Since) }},
			{Name: "FLAG", Key: "flag", Help: "bit as a number", Right: true, Value: func(f featureRow) table.Value { return table.Uint(f.Flag) }},
			{Name: "NEEDS", Key: "needs", Help: "what else it takes", Value: func(f featureRow) table.Value { return orNull(f.Needs) }},
			{Name: "HELP", Key: "help", Help: "what it is", Value: func(f featureRow) table.Value { return orNull(f.Help) }},
		},
	}
}

func newFeaturesCommand(a *app) *cobra.Command {
	var o featuresOptions
	cmd := &cobra.Command{
		Use:   "features",
		Short: "tell which features this kernel's driver has, and since when",
		Long:  "Print every flag by its name in the kernel's header, whether this kernel has it, and which release brought it.",
		Args:  noArgs,
		RunE:  a.action(func(ctx context.Context, _ []string) error { return a.runFeatures(ctx, &o) }),
	}
	addOutputFlags(cmd, &o.output, featureTable())
	return cmd
}

func (a *app) runFeatures(ctx context.Context, o *featuresOptions) error {
	if _, err := checkColumns(featureTable(), o.output.options()); err != nil {
		return err
	}
	client, err := a.connect()
	if err != nil {
		return err
	}
	have, err := client.Features(ctx)
	if err != nil {
		return err
	}
	var rows []featureRow
	known := uint64(0)
	for _, f := range slices.Collect(ctrl.AllFeatures()) {
		rows = append(rows, featureRow{f, have.Has(f.Flag)})
		known |= f.Flag
	}
	for _, name := range ctrl.Features(uint64(have) &^ known).Names() {
		rows = append(rows, featureRow{ctrl.Feature{Name: name, Help: "newer than this program"}, true})
	}
	return featureTable().Write(a.stdout, rows, o.output.options())
}
