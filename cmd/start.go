package cmd

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"ublk/ctrl"
)

type startOptions struct {
	controlOptions
	pid int
}

func newStartCommand(a *app) *cobra.Command {
	var o startOptions
	cmd := &cobra.Command{
		Use:   "start DEVICE",
		Short: "publish the block device of a server that waits (START_DEV)",
		Long: "Send START_DEV for a device whose server has opened the char device and fetches. It returns when every tag has been fetched.\n" +
			"To have a device served by ublk itself: ublk serve.",
		RunE: a.action(func(ctx context.Context, args []string) error { return a.runStart(ctx, &o, args) }),
	}
	o.startFlags(a, cmd)
	return cmd
}

func (o *startOptions) startFlags(a *app, cmd *cobra.Command) {
	o.flags(a, cmd, 0)
	option(cmd.Flags(), &o.pid, "pid", "", "", "the server is process `PID` (default: whoever holds the char device)", number(1, 1<<31-1))
	_ = cmd.RegisterFlagCompletionFunc("pid", func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		for _, arg := range append(o.devices.numbers, args...) {
			if id, ok := parseDevice(arg); ok {
				if pid, held, _ := a.fs.CharHolder(id); held {
					return []string{strconv.Itoa(pid)}, cobra.ShellCompDirectiveNoFileComp
				}
			}
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	})
}

func (a *app) runStart(ctx context.Context, o *startOptions, args []string) error {
	return a.sendWithServer(ctx, o, args, "START_DEV", (*ctrl.Client).Start)
}

// sendWithServer sends a command that waits for a server, which must be there.
func (a *app) sendWithServer(ctx context.Context, o *startOptions, args []string, name string, do func(*ctrl.Client, context.Context, int, int) error) error {
	id, _, err := o.devices.only(ctx, a, args)
	if err != nil {
		return err
	}
	if _, _, err := a.device(ctx, id); err != nil {
		return err
	}
	pid := o.pid
	if pid == 0 {
		if pid, err = a.charHolder(id, name); err != nil {
			return err
		}
	}
	return a.send(ctx, &o.controlOptions, id, sent{name, object{{"pid", pid}}}, func(ctx context.Context, client *ctrl.Client) error {
		return do(client, ctx, id, pid)
	})
}

// charHolder is the process that holds a device's char device. Without one the
// driver would wait for ever.
func (a *app) charHolder(id int, command string) (int, error) {
	pid, ok, err := a.fs.CharHolder(id)
	switch {
	case ok:
		return pid, nil
	case err != nil:
		return 0, hinted(fmt.Errorf("device %d: %s: %w", id, command, err), "Who holds %s cannot be seen without root. Name the server with --pid.", ctrl.CharPath(id))
	}
	return 0, hinted(fmt.Errorf("device %d: %s: no process holds %s", id, command, ctrl.CharPath(id)),
		"It has no server that could be waited for. To have it served: ublk serve %d", id)
}
