package cmd

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"ublk/internal/table"
	"ublk/tui"
)

type statOptions struct {
	devices deviceArgs
	output  outputOptions
	count   int
	delay   time.Duration
}

// statTable is that of top with other columns in front.
func statTable() table.Table[tui.Device] { return tui.Lines(statColumns()) }

func statColumns() []string {
	return []string{"TIME", "ID", "STATE", "R/s", "W/s", "O/s", "READ/s", "WRITE/s", "R-TIME", "W-TIME", "AQU", "UTIL", "P50", "P99", "P99.9", "ERR"}
}

func newStatCommand(a *app) *cobra.Command {
	o := statOptions{delay: time.Second}
	cmd := &cobra.Command{
		Use:   "stat [DEVICE...]",
		Short: "print what devices do, a line each and interval",
		Long: "Print what the devices of any server did in an interval, a line for each, as iostat does. With neither -d nor -c that is\n" +
			"one second; with -d until interrupted. R-TIME and W-TIME are means from acceptance by the block layer to completion;\n" +
			"P50, P99 and P99.9 are what a server of ours took for reads and writes, by its own clock. " + timesHelp + " With -J, every line is a JSON object, with times in nanoseconds.",
		Example: "  ublk stat\n  ublk stat -d 5 0 1\n  ublk stat -d 1 -c 10 -J | jq -c '[.id, .iops, .p99_ns]'",
	}
	cmd.RunE = a.action(func(ctx context.Context, args []string) error {
		if !cmd.Flags().Changed("delay") && !cmd.Flags().Changed("count") {
			o.count = 1
		}
		return a.runStat(ctx, &o, args)
	})
	o.devices.many(a, cmd, true)
	flags := cmd.Flags()
	delayOption(flags, &o.delay, "length of an interval, `SECONDS`")
	countOption(flags, &o.count, "c", "end after `COUNT` intervals")
	addOutputFlags(cmd, &o.output, statTable())
	return cmd
}

func (a *app) runStat(ctx context.Context, o *statOptions, args []string) error {
	options := o.output.options()
	if _, err := checkColumns(statTable(), options); err != nil {
		return err
	}
	return a.monitor(ctx, &o.devices, args, func(sampler tui.Sampler, only []int) error {
		return tui.Batch(ctx, a.stdout, sampler, tui.BatchOptions{
			Interval: o.delay, Count: o.count, Only: only, Table: options, Columns: statColumns(), ASCII: a.asciiOnly(), Notes: a.note,
		})
	})
}
