package cmd

import (
	"context"

	"github.com/spf13/cobra"

	"ublk/ctrl"
)

func newQuiesceCommand(a *app) *cobra.Command {
	var o controlOptions
	cmd := &cobra.Command{
		Use:   "quiesce DEVICE",
		Short: "ask the server to leave, keeping the disk (QUIESCE_DEV)",
		Long: "Send QUIESCE_DEV, with --timeout as the driver's own limit. That it succeeds does not mean that the server has left, nor even\n" +
			"that it was told: look at the state, and send it again. The device needs recovery. To replace a server: ublk upgrade.",
		RunE: a.action(func(ctx context.Context, args []string) error { return a.runQuiesce(ctx, &o, args) }),
	}
	o.flags(a, cmd, 0)
	return cmd
}

func (a *app) runQuiesce(ctx context.Context, o *controlOptions, args []string) error {
	id, _, err := o.devices.only(ctx, a, args)
	if err != nil {
		return err
	}
	command := sent{"QUIESCE_DEV", object{{"timeout_ms", o.timeout.Milliseconds()}}}
	return a.send(ctx, o, id, command, func(ctx context.Context, c *ctrl.Client) error { return c.Quiesce(ctx, id, o.timeout) })
}
