package cmd

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"ublk/internal/units"
)

type getAffinityOptions struct {
	controlOptions
	queue int
}

func newGetAffinityCommand(a *app) *cobra.Command {
	var o getAffinityOptions
	cmd := &cobra.Command{
		Use:   "get-affinity DEVICE",
		Short: "ask which CPUs a device's queues serve (GET_QUEUE_AFFINITY)",
		Long:  "Print the possible CPUs that are mapped to every queue, one queue a line, or to one queue. The command cannot hang.",
		RunE:  a.action(func(ctx context.Context, args []string) error { return a.runGetAffinity(ctx, &o, args) }),
	}
	o.flags(a, cmd, 0)
	option(cmd.Flags(), &o.queue, "queue", "q", "", "only queue `Q`", number(0, 4095))
	o.queue = -1
	return cmd
}

func (a *app) runGetAffinity(ctx context.Context, o *getAffinityOptions, args []string) error {
	id, _, err := o.devices.only(ctx, a, args)
	if err != nil {
		return err
	}
	client, info, err := a.device(ctx, id)
	if err != nil {
		return err
	}
	type line struct {
		Queue int   `json:"queue"`
		CPUs  []int `json:"cpus"`
	}
	first, last := 0, info.Queues-1
	if o.queue >= 0 {
		first, last = o.queue, o.queue
	}
	if last >= info.Queues {
		return usagef("device %d has queues 0 to %d", id, info.Queues-1)
	}
	lines := []line{}
	for queue := first; queue <= last; queue++ {
		cpus, err := client.Affinity(ctx, id, queue)
		if err != nil {
			return err
		}
		lines = append(lines, line{queue, append([]int{}, cpus...)})
	}
	if o.json {
		return a.printJSON(object{{"dev_id", id}, {"queues", lines}})
	}
	var fields object
	for _, l := range lines {
		fields = append(fields, field{fmt.Sprintf("queue %d", l.Queue), units.FormatCPUs(l.CPUs)})
	}
	return a.printFields(fields)
}
