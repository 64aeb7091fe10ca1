package cmd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"ublk/ctrl"
)

type listOptions struct {
	devices deviceArgs
	output  outputOptions
}

func newListCommand(a *app) *cobra.Command {
	var o listOptions
	cmd := &cobra.Command{
		Use:     "list [DEVICE...]",
		Aliases: []string{"ls"},
		Short:   "list devices, of any server",
		Long: "Print one line a device, of any server. Without privileges it prints what sysfs shows and leaves the rest unknown.\n" +
			"With the column HEALTH, devices with requests under way are watched for up to a second.",
		Example: "  ublk list\n  ublk list -o +HEALTH\n  ublk list -J | jq '.ublkdevices[] | select(.state != \"LIVE\")'",
		RunE:    a.action(func(ctx context.Context, args []string) error { return a.runList(ctx, &o, args) }),
	}
	o.devices.many(a, cmd, true)
	addOutputFlags(cmd, &o.output, deviceTable())
	return cmd
}

func (a *app) runList(ctx context.Context, o *listOptions, args []string) error {
	options := o.output.options()
	keys, err := checkColumns(deviceTable(), options)
	if err != nil {
		return err
	}
	client, err := a.connectOrNot()
	if err != nil {
		return err
	}
	var rows []row
	if len(args)+len(o.devices.numbers) == 0 {
		rows, err = a.lookAtAll(ctx, client)
	} else {
		err = o.devices.each(ctx, a, args, func(ctx context.Context, id int) error {
			r, err := a.look(ctx, client, id)
			if err == nil {
				rows = append(rows, r)
			}
			return err
		})
	}
	if err != nil && len(rows) == 0 {
		return err
	}
	if keys["health"] {
		a.judge(ctx, rows)
	}
	return errors.Join(err, deviceTable().Write(a.stdout, rows, options))
}

// connectOrNot is connect for commands that can do without privileges: then it
// says so and returns no client.
func (a *app) connectOrNot() (*ctrl.Client, error) {
	client, err := a.connect()
	if errors.Is(err, fs.ErrPermission) {
		a.unprivileged()
		return nil, nil
	}
	return client, err
}

// unprivileged says once that much is unknown, and why.
func (a *app) unprivileged() {
	if !a.toldLimits {
		fmt.Fprintf(a.stderr, "ublk: %s: the driver tells only root: what sysfs does not show is unknown\n", a.name)
		a.toldLimits = true
	}
}

// lookAtAll looks at every device. One that goes away meanwhile is left out.
func (a *app) lookAtAll(ctx context.Context, client *ctrl.Client) ([]row, error) {
	ids, err := a.allDevices()
	if err != nil {
		return nil, err
	}
	var rows []row
	for _, id := range ids {
		r, err := a.look(ctx, client, id)
		if errors.Is(err, ctrl.ErrNoDevice) {
			continue
		}
		if err != nil {
			return rows, err
		}
		rows = append(rows, r)
	}
	return rows, nil
}
