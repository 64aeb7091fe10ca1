package cmd

import (
	"context"

	"github.com/spf13/cobra"

	"ublk/ctrl"
)

func newUpdateSizeCommand(a *app) *cobra.Command {
	var o controlOptions
	cmd := &cobra.Command{
		Use:   "update-size DEVICE SIZE",
		Short: "set the capacity of a started device (UPDATE_SIZE)",
		Long: "Send UPDATE_SIZE. The driver checks nothing: not the alignment, not whether data is cut off, not whether the server has as much.\n" +
			"The careful way is: ublk resize.",
		RunE: a.action(func(ctx context.Context, args []string) error { return a.runUpdateSize(ctx, &o, args) }),
	}
	o.flags(a, cmd, 1)
	return cmd
}

func (a *app) runUpdateSize(ctx context.Context, o *controlOptions, args []string) error {
	id, rest, err := o.devices.only(ctx, a, args)
	if err != nil {
		return err
	}
	bytes, err := sectorSize(rest[0])
	if err != nil {
		return usageError{err}
	}
	sectors := bytes / ctrl.SectorSize
	return a.send(ctx, o, id, sent{"UPDATE_SIZE", object{{"sectors", sectors}}}, func(ctx context.Context, c *ctrl.Client) error {
		return c.UpdateSize(ctx, id, sectors)
	})
}
