package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ublk/internal/table"
	"ublk/internal/units"
	"ublk/internal/watch"
)

type watchOptions struct {
	watch.Options
	onCrash, onHang string
	json            bool
}

var (
	crashWords = []string{"recover\ta new server", "stop\tI/O fails, the disk goes away", "delete\tstop and delete", "hold\tnothing"}
	hangWords  = []string{"report", "kill\tend the server, and recover"}
)

func newWatchCommand(a *app) *cobra.Command {
	o := watchOptions{onCrash: "recover", onHang: "report", Options: watch.Options{GiveUp: 5 * time.Minute, Burst: 10, HangAfter: 30 * time.Second}}
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "wait for servers to die, and recover their devices",
		Long: "Watch all devices, also those that come later. When the server of a device dies that was added with --recovery, the device gets\n" +
			"a new one at once: a server process stands by. Devices that wait for a server when the watch begins are recovered as well. The\n" +
			"watch can be ended and started anew at any time: servers do not notice.\n\n" +
			"A device whose servers crash one after the other is left alone for 1, 2, 4 ... 60 s between attempts, and after --give-up it is\n" +
			"stopped: its I/O, which would wait for ever, fails. Devices of other programs are only reported, unless --exec says how to recover\n" +
			"them: a shell command that finds UBLK_ID, UBLK_STATE and UBLK_OLD_PID in its environment.\n\n" +
			"Each event is a line on standard output. As a systemd service it tells the manager when it is ready, and that it lives.\n\n" +
			recoveryHelp,
		Example: "  ublk watch\n  ublk watch --on-hang=kill --hang-after 1m -J\n  ublk watch --exec 'rublk recover -n $UBLK_ID'",
		Args:    cobra.NoArgs,
		RunE:    a.action(func(ctx context.Context, _ []string) error { return a.runWatch(ctx, &o) }),
	}
	flags := cmd.Flags()
	option(flags, &o.onCrash, "on-crash", "", o.onCrash, "what becomes of a device whose server died: `MODE` recover, stop, delete or hold", word(crashWords))
	option(flags, &o.GiveUp, "give-up", "", "5m", "stop a device that could not be recovered for `TIME`; 0: never", units.ParseDuration)
	option(flags, &o.Burst, "burst", "", "10", "recover from `N` crashes in a row without delay", number(0, 1<<20))
	option(flags, &o.onHang, "on-hang", "", o.onHang, "what becomes of a server that completes no request: `MODE` report or kill", word(hangWords))
	option(flags, &o.HangAfter, "hang-after", "", "30s", "a server hangs that has requests and completes none for `TIME`; 0: do not look", units.ParseDuration)
	flags.StringVar(&o.Exec, "exec", "", "shell command `CMD` that recovers a device of another program")
	flags.BoolVarP(&o.json, "json", "J", false, "print events as JSON, one a line")
	_ = cmd.RegisterFlagCompletionFunc("on-crash", completeWords(crashWords...))
	_ = cmd.RegisterFlagCompletionFunc("on-hang", completeWords(hangWords...))
	return cmd
}

// word parses one of words, which may carry a description after a tab.
func word(words []string) func(string) (string, error) {
	var names []string
	for _, w := range words {
		name, _, _ := strings.Cut(w, "\t")
		names = append(names, name)
	}
	return func(text string) (string, error) {
		if !slices.Contains(names, text) {
			return "", fmt.Errorf("one of %s", strings.Join(names, ", "))
		}
		return text, nil
	}
}

// runWatch watches until it is told to end, which is no error.
func (a *app) runWatch(ctx context.Context, o *watchOptions) error {
	client, err := a.connect()
	if err != nil {
		return err
	}
	if _, err := client.Features(ctx); err != nil {
		return err
	}
	events := newEventPrinter(a.stdout, o.json)
	defer events.close()
	o.OnCrash, o.OnHang = watch.OnCrash(o.onCrash), watch.OnHang(o.onHang)
	o.Emit = func(e watch.Event) {
		if e.Kind == watch.Ready {
			_ = watch.Notify("READY=1", "STATUS=Watching "+e.Text)
		}
		events.print(e)
	}
	o.AliveEvery, o.Alive = watch.WatchdogInterval(), func() { _ = watch.Notify("WATCHDOG=1") }
	err = watch.New(client, o.Options).Run(ctx)
	_ = watch.Notify("STOPPING=1")
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// eventPrinter prints events off the goroutines that recover: standard output
// may lead to a disk that waits for just them.
type eventPrinter struct {
	queue chan watch.Event
	done  chan struct{}
	json  bool
	out   io.Writer
}

// Events that may wait to be printed; more are dropped.
const (
	queued    = 4096
	flushTime = 2 * time.Second // that a reader of the events gets at the end
)

func newEventPrinter(out io.Writer, asJSON bool) *eventPrinter {
	p := &eventPrinter{queue: make(chan watch.Event, queued), done: make(chan struct{}), json: asJSON, out: out}
	go p.run()
	return p
}

func (p *eventPrinter) print(e watch.Event) {
	select {
	case p.queue <- e:
	default:
	}
}

func (p *eventPrinter) run() {
	defer close(p.done)
	for e := range p.queue {
		if p.json {
			_ = json.NewEncoder(p.out).Encode(e)
			continue
		}
		fmt.Fprintln(p.out, table.Escape(e.String()))
	}
}

// close prints what is left, unless nobody takes it.
func (p *eventPrinter) close() {
	close(p.queue)
	select {
	case <-p.done:
	case <-time.After(flushTime):
	}
}
