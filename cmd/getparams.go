package cmd

import (
	"context"

	"github.com/spf13/cobra"

	"ublk/ctrl"
)

func newGetParamsCommand(a *app) *cobra.Command {
	var o controlOptions
	cmd := &cobra.Command{
		Use:   "get-params DEVICE",
		Short: "ask for a device's parameters (GET_PARAMS)",
		Long: "Print the parameters of a device as GROUP.NAME and value, with the kernel's names.\n" +
			"The command waits while another one is stuck in the device.",
		RunE: a.action(func(ctx context.Context, args []string) error { return a.runGetParams(ctx, &o, args) }),
	}
	o.flags(a, cmd, 0)
	return cmd
}

func (a *app) runGetParams(ctx context.Context, o *controlOptions, args []string) error {
	id, _, err := o.devices.only(ctx, a, args)
	if err != nil {
		return err
	}
	client, info, err := a.device(ctx, id)
	if err != nil {
		return err
	}
	ctx, cancel := o.deadline(ctx)
	defer cancel()
	var params ctrl.Params
	err = a.waiting("GET_PARAMS", func() string { return a.holdUp(info) }, func() error {
		params, err = client.Params(ctx, id)
		return err
	})
	if err != nil {
		return err
	}
	return a.printParams(&params, o.json)
}

// printParams prints parameters the way set-params takes them.
func (a *app) printParams(p *ctrl.Params, asJSON bool) error {
	if asJSON {
		return a.printJSON(p)
	}
	fields, err := paramFields(p)
	if err != nil {
		return err
	}
	var lines object
	for _, f := range fields {
		lines = append(lines, field{f.Group + "." + f.Name, f.Value})
	}
	return a.printFields(lines)
}
