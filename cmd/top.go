package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"ublk/internal/sample"
	"ublk/internal/table"
	"ublk/internal/units"
	"ublk/tui"
)

type topOptions struct {
	devices deviceArgs
	batch   bool
	json    bool
	count   int
	delay   time.Duration
}

// timesHelp explains the units of times.
const timesHelp = "84µ are microseconds,\n5.2m milliseconds."

func newTopCommand(a *app) *cobra.Command {
	o := topOptions{delay: time.Second}
	cmd := &cobra.Command{
		Use:   "top [DEVICE...]",
		Short: "watch devices, their queues and their requests",
		Long: "Show what the devices of any server do, on a live screen: the devices, the queues of one, the requests on one queue.\n" +
			"Nothing on the screen changes a device. Of servers of ours it shows latencies and the age of every request;\n" +
			"of others what the kernel knows, which without root is less. " + timesHelp + "\n\n" +
			"Where standard output is no terminal, or TERM is dumb, samples are printed as text, as with -b: the first one after one interval.\n\n" +
			"Keys:\n" + tui.KeyHelp() + "\nColumns:\n" + tui.ColumnHelp(),
		Example: "  ublk top\n  ublk top -b -n 3 -d 0.5\n  ublk top -J -n 1 | jq .p99_ns",
		RunE:    a.action(func(ctx context.Context, args []string) error { return a.runTop(ctx, &o, args) }),
	}
	cmd.ValidArgsFunction = a.completeDevices
	flags := cmd.Flags()
	flags.BoolVarP(&o.batch, "batch", "b", false, "print text instead of a screen")
	flags.BoolVarP(&o.json, "json", "J", false, "print a JSON object a line for every device and sample")
	countOption(flags, &o.count, "n", "end after `COUNT` samples, when printing")
	delayOption(flags, &o.delay, "take a sample every `SECONDS`")
	return cmd
}

func (a *app) runTop(ctx context.Context, o *topOptions, args []string) error {
	dumb := a.getenv("TERM") == "" || a.getenv("TERM") == "dumb"
	return a.monitor(ctx, &o.devices, args, func(sampler tui.Sampler, only []int) error {
		if o.batch || o.json || dumb || !isTerminal(a.stdout) {
			b := tui.BatchOptions{Interval: o.delay, Count: o.count, Only: only, Title: true, ASCII: a.asciiOnly(), Notes: a.note}
			if o.json {
				b.Table.Format = table.JSON
			}
			return tui.Batch(ctx, a.stdout, sampler, b)
		}
		options := tui.Options{Interval: o.delay, Only: only, Colour: a.colour(a.stdout), ASCII: a.asciiOnly()}
		return tui.Run(ctx, a.terminalInput(), a.stdout, os.Environ(), sampler, options)
	})
}

// monitor lets do look at the devices named, or at all where none is, until ctx
// ends. Of several those that are missing are told of, and the others watched.
func (a *app) monitor(ctx context.Context, devices *deviceArgs, args []string, do func(sampler tui.Sampler, only []int) error) error {
	only, missing := a.watched(ctx, devices, args)
	if missing != nil && len(only) == 0 {
		return missing
	}
	sampler, err := a.sampler(only)
	if err != nil {
		return err
	}
	defer sampler.Close()
	err = do(sampler, only)
	switch signal := a.caught(); {
	case err != nil:
		return err
	case ctx.Err() != nil && signal != 0:
		return reportedError{128 + int(signal)}
	}
	return missing
}

// terminalInput is nil where standard input is no terminal: then the keys come
// from the terminal itself.
func (a *app) terminalInput() io.Reader {
	if isTerminal(a.stdin) {
		return a.stdin
	}
	return nil
}

// watched resolves the devices to watch, as far as they exist.
func (a *app) watched(ctx context.Context, devices *deviceArgs, args []string) (only []int, err error) {
	err = devices.each(ctx, a, args, func(_ context.Context, id int) error {
		if _, err := a.fs.CharDev(id); err != nil {
			return noDeviceError(id)
		}
		only = append(only, id)
		return nil
	})
	return only, err
}

// sampler looks at devices with what privileges there are.
func (a *app) sampler(only []int) (*sample.Sampler, error) {
	config := sample.Config{FS: a.fs, State: a.state, Only: only}
	client, err := a.connect()
	switch {
	case err == nil:
		config.Driver = client
	case !errors.Is(err, fs.ErrPermission):
		return nil, err
	}
	return sample.New(config), nil
}

// note says on standard error what a monitor cannot see.
func (a *app) note(text string) { fmt.Fprintf(a.stderr, "ublk: %s: %s\n", a.name, table.Escape(text)) }

// asciiOnly says whether the terminal's character set may have no more.
func (a *app) asciiOnly() bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if locale := a.getenv(name); locale != "" {
			locale = strings.ToLower(locale)
			return !strings.Contains(locale, "utf-8") && !strings.Contains(locale, "utf8")
		}
	}
	return true
}

// The intervals that a monitor can be asked for.
const minDelay, maxDelay = 50 * time.Millisecond, 24 * time.Hour

// delayOption is how long an interval of a monitor is.
func delayOption(flags *pflag.FlagSet, into *time.Duration, usage string) {
	option(flags, into, "delay", "d", "1", usage, func(text string) (time.Duration, error) {
		delay, err := units.ParseDuration(text)
		if err == nil && (delay < minDelay || delay > maxDelay) {
			err = fmt.Errorf("from %v to a day", minDelay)
		}
		return delay, err
	})
}

// countOption is how many intervals a monitor prints; without it there is no end.
func countOption(flags *pflag.FlagSet, into *int, short, usage string) {
	option(flags, into, "count", short, "", usage, number(1, math.MaxInt32))
}
