package cmd

import (
	"context"

	"github.com/spf13/cobra"

	"ublk/ctrl"
)

func newEndRecoveryCommand(a *app) *cobra.Command {
	var o startOptions
	cmd := &cobra.Command{
		Use:   "end-recovery DEVICE",
		Short: "end the recovery with a new server that waits (END_USER_RECOVERY)",
		Long: "Send END_USER_RECOVERY for a device whose new server has opened the char device and fetches. It returns when every tag has\n" +
			"been fetched; then the device is LIVE. The whole recovery is: ublk recover.",
		RunE: a.action(func(ctx context.Context, args []string) error { return a.runEndRecovery(ctx, &o, args) }),
	}
	o.startFlags(a, cmd)
	return cmd
}

func (a *app) runEndRecovery(ctx context.Context, o *startOptions, args []string) error {
	return a.sendWithServer(ctx, o, args, "END_USER_RECOVERY", (*ctrl.Client).EndRecovery)
}
