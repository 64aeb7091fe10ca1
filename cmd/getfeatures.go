package cmd

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
)

type getFeaturesOptions struct{ json bool }

func newGetFeaturesCommand(a *app) *cobra.Command {
	var o getFeaturesOptions
	cmd := &cobra.Command{
		Use:   "get-features",
		Short: "ask for the driver's features (GET_FEATURES)",
		Long:  "Print the answer to GET_FEATURES, a number, and the names of its bits. A readable table is: ublk features",
		Args:  noArgs,
		RunE:  a.action(func(ctx context.Context, _ []string) error { return a.runGetFeatures(ctx, &o) }),
	}
	cmd.Flags().BoolVarP(&o.json, "json", "J", false, "print JSON")
	return cmd
}

func (a *app) runGetFeatures(ctx context.Context, o *getFeaturesOptions) error {
	client, err := a.connect()
	if err != nil {
		return err
	}
	have, err := client.Features(ctx)
	if err != nil {
		return err
	}
	if o.json {
		return a.printJSON(object{{"features", have.Names()}, {"features_raw", uint64(have)}})
	}
	fmt.Fprintf(a.stdout, "%#x\n", uint64(have))
	for _, name := range have.Names() {
		fmt.Fprintln(a.stdout, name)
	}
	return nil
}
