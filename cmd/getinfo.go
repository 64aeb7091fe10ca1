package cmd

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"ublk/ctrl"
)

func newGetInfoCommand(a *app) *cobra.Command {
	var o controlOptions
	cmd := &cobra.Command{
		Use:   "get-info DEVICE",
		Short: "ask for a device's description (GET_DEV_INFO2)",
		Long:  "Print what the driver answers to GET_DEV_INFO2, field by field as in struct ublksrv_ctrl_dev_info. The command cannot hang.",
		RunE:  a.action(func(ctx context.Context, args []string) error { return a.runGetInfo(ctx, &o, args) }),
	}
	o.flags(a, cmd, 0)
	return cmd
}

func (a *app) runGetInfo(ctx context.Context, o *controlOptions, args []string) error {
	id, _, err := o.devices.only(ctx, a, args)
	if err != nil {
		return err
	}
	_, info, err := a.device(ctx, id)
	if err != nil {
		return err
	}
	if o.json {
		return a.printJSON(infoFields(&info, true))
	}
	return a.printFields(infoFields(&info, false))
}

// infoFields are the fields of the kernel's structure: exact for JSON, or with
// names beside the numbers.
func infoFields(i *ctrl.DevInfo, exact bool) object {
	f := object{
		{"nr_hw_queues", i.Queues}, {"queue_depth", i.Depth}, {"state", i.State.String()}, {"io_desc_size", i.DescSize},
		{"max_io_buf_bytes", i.MaxIOBytes}, {"dev_id", i.ID}, {"ublksrv_pid", i.ServerPID},
	}
	if exact {
		f = append(f, field{"flags", i.Flags.Names()}, field{"flags_raw", uint64(i.Flags)})
	} else {
		f = append(f, field{"flags", fmt.Sprintf("%#x %s", uint64(i.Flags), strings.Join(i.Flags.Names(), " "))})
	}
	return append(f, field{"ublksrv_flags", fmt.Sprintf("%#x", i.ServerFlags)}, field{"owner_uid", i.OwnerUID}, field{"owner_gid", i.OwnerGID})
}
