package cmd

import (
	"context"
	"encoding/json"
	"io"
	"os"

	"github.com/spf13/cobra"

	"ublk/ctrl"
)

type setParamsOptions struct {
	controlOptions
	file string
}

func newSetParamsCommand(a *app) *cobra.Command {
	var o setParamsOptions
	cmd := &cobra.Command{
		Use:   "set-params DEVICE [NAME=VALUE...]",
		Short: "change a device's parameters before it is started (SET_PARAMS)",
		Long: "Read the parameters (GET_PARAMS), change some, check them and set them all (SET_PARAMS). Names are those of get-params,\n" +
			"with or without their group. The driver forgets all parameters when it rejects one: then the old ones are set again.",
		Example: "  ublk set-params 0 dev_sectors=2097152 basic.read_only=true\n" +
			"  ublk get-params -J 0 | ublk set-params 1 --file -",
		RunE: a.action(func(ctx context.Context, args []string) error { return a.runSetParams(ctx, &o, args) }),
	}
	o.flags(a, cmd, 0)
	cmd.Args = nil
	cmd.Flags().StringVarP(&o.file, "file", "f", "", "read parameters from `FILE`, JSON as of get-params -J; - is standard input")
	cmd.ValidArgsFunction = func(c *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 && len(o.devices.numbers) == 0 {
			return a.completeDevices(c, args, typed)
		}
		return completeParams(c, args, typed)
	}
	return cmd
}

func (a *app) runSetParams(ctx context.Context, o *setParamsOptions, args []string) error {
	if len(args)+len(o.devices.numbers) == 0 || len(o.devices.numbers) > 1 {
		return usagef("which device?")
	}
	id, assignments, err := o.devices.only(ctx, a, args)
	if err != nil {
		return err
	}
	if len(assignments) == 0 && o.file == "" {
		return usagef("which parameters?")
	}
	client, info, err := a.device(ctx, id)
	if err != nil {
		return err
	}
	ctx, cancel := o.deadline(ctx)
	defer cancel()
	var params ctrl.Params
	err = a.waiting("SET_PARAMS", func() string { return a.holdUp(info) }, func() error {
		params, err = client.ChangeParams(ctx, id, func(p *ctrl.Params) error { return a.changeParams(p, o.file, assignments) })
		return err
	})
	if err != nil {
		return err
	}
	return a.printParams(&params, o.json)
}

// changeParams merges a file's parameters, then single ones.
func (a *app) changeParams(p *ctrl.Params, file string, assignments []string) error {
	if file != "" {
		document, err := a.readFile(file)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(document, p); err != nil {
			return usagef("%s: %w", file, err)
		}
	}
	for _, assignment := range assignments {
		if err := setParam(p, assignment); err != nil {
			return err
		}
	}
	return nil
}

// readFile reads a whole file, or standard input for "-".
func (a *app) readFile(name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(a.stdin)
	}
	return os.ReadFile(name)
}

func completeParams(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	full := allParams()
	fields, err := paramFields(&full)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var words []string
	for _, f := range fields {
		words = append(words, f.Group+"."+f.Name+"=")
	}
	offers, _ := completeWords(words...)(nil, nil, typed)
	return offers, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}
