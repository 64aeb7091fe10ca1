package cmd

import (
	"context"

	"github.com/spf13/cobra"

	"ublk/ctrl"
)

type stopOptions struct {
	controlOptions
	safe bool
}

func newStopCommand(a *app) *cobra.Command {
	var o stopOptions
	cmd := &cobra.Command{
		Use:   "stop DEVICE",
		Short: "remove the block device, whoever uses it (STOP_DEV)",
		Long: "Send STOP_DEV, or TRY_STOP_DEV with --safe. STOP_DEV ignores openers and mounts: their I/O fails from then on.\n" +
			"The device stays and can be served again; after TRY_STOP_DEV its disk can then be opened by root only. To get rid of it: ublk del.",
		RunE: a.action(func(ctx context.Context, args []string) error { return a.runStop(ctx, &o, args) }),
	}
	o.flags(a, cmd, 0)
	cmd.Flags().BoolVar(&o.safe, "safe", false, "only if nobody has the disk open (TRY_STOP_DEV, Linux 7.0)")
	return cmd
}

func (a *app) runStop(ctx context.Context, o *stopOptions, args []string) error {
	id, _, err := o.devices.only(ctx, a, args)
	if err != nil {
		return err
	}
	if o.safe {
		return a.send(ctx, &o.controlOptions, id, sent{command: "TRY_STOP_DEV"}, func(ctx context.Context, c *ctrl.Client) error { return c.TryStop(ctx, id) })
	}
	return a.send(ctx, &o.controlOptions, id, sent{command: "STOP_DEV"}, func(ctx context.Context, c *ctrl.Client) error { return c.Stop(ctx, id) })
}
