package cmd

import (
	"context"

	"github.com/spf13/cobra"

	"ublk/ctrl"
)

func newStartRecoveryCommand(a *app) *cobra.Command {
	var o controlOptions
	cmd := &cobra.Command{
		Use:   "start-recovery DEVICE",
		Short: "begin the recovery of a device without server (START_USER_RECOVERY)",
		Long: "Send START_USER_RECOVERY: from then on a new server can open the char device. The whole recovery is: ublk recover.\n\n" +
			"Before Linux 6.16, send it only to a device whose server was LIVE: after a recovery that was cut off between this and the last\n" +
			"fetch, the command can crash the machine. ublk recover knows how to go round that.",
		RunE: a.action(func(ctx context.Context, args []string) error { return a.runStartRecovery(ctx, &o, args) }),
	}
	o.flags(a, cmd, 0)
	return cmd
}

func (a *app) runStartRecovery(ctx context.Context, o *controlOptions, args []string) error {
	id, _, err := o.devices.only(ctx, a, args)
	if err != nil {
		return err
	}
	return a.send(ctx, o, id, sent{command: "START_USER_RECOVERY"}, func(ctx context.Context, c *ctrl.Client) error { return c.StartRecovery(ctx, id) })
}
