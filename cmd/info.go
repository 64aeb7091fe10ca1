package cmd

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ublk/ctrl"
	"ublk/internal/stats"
	"ublk/internal/sysfs"
	"ublk/internal/table"
	"ublk/internal/units"
)

type infoOptions struct {
	devices deviceArgs
	json    bool
	bytes   bool
}

func newInfoCommand(a *app) *cobra.Command {
	var o infoOptions
	cmd := &cobra.Command{
		Use:   "info DEVICE...",
		Short: "tell everything that is known about a device",
		Long: "Print device info, every flag by name, every parameter group, queue affinity, the server, openers and mounts,\n" +
			"recovery state, counters, and what was in flight when the server died. What a stuck device does not answer is left out.",
		Example: "  ublk info 0\n  ublk info -J disk-1",
		RunE:    a.action(func(ctx context.Context, args []string) error { return a.runInfo(ctx, &o, args) }),
	}
	o.devices.many(a, cmd, false)
	cmd.Flags().BoolVarP(&o.json, "json", "J", false, "print JSON: the fields of list, and more")
	cmd.Flags().BoolVarP(&o.bytes, "bytes", "b", false, "print sizes in bytes")
	return cmd
}

func (a *app) runInfo(ctx context.Context, o *infoOptions, args []string) error {
	client, err := a.connectOrNot()
	if err != nil {
		return err
	}
	var rows []row
	err = o.devices.each(ctx, a, args, func(ctx context.Context, id int) error {
		r, err := a.look(ctx, client, id)
		if err == nil {
			rows = append(rows, r)
		}
		return err
	})
	if err != nil && len(rows) == 0 {
		return err
	}
	for i := range rows {
		a.examine(ctx, client, &rows[i])
	}
	a.judge(ctx, rows)
	if o.json {
		t := table.Table[row]{Plural: "ublkdevices", Columns: slices.Concat(deviceColumns(), detailColumns())}
		if werr := t.Write(a.stdout, rows, table.Options{Format: table.JSON}); werr != nil {
			return werr
		}
		return err
	}
	texts := make([]string, len(rows))
	for i := range rows {
		p := infoText{bytes: o.bytes}
		p.device(&rows[i])
		texts[i] = p.b.String()
	}
	if _, werr := fmt.Fprint(a.stdout, strings.Join(texts, "\n")); werr != nil {
		return werr
	}
	return err
}

// infoText writes what is known of a device for people.
type infoText struct {
	b     strings.Builder
	bytes bool
}

// section starts a group of lines.
func (p *infoText) section(title string) { fmt.Fprintf(&p.b, "%s\n", title) }

// line is a name and what there is to say; more lines continue below. An empty
// text prints nothing.
func (p *infoText) line(name string, texts ...string) {
	for _, text := range texts {
		if text != "" {
			fmt.Fprintf(&p.b, "  %-15s %s\n", name, table.Escape(text))
			name = ""
		}
	}
}

func (p *infoText) linef(name, format string, args ...any) {
	p.line(name, fmt.Sprintf(format, args...))
}

func (p *infoText) size(bytes uint64) string {
	if p.bytes {
		return fmt.Sprint(bytes)
	}
	return units.FormatSize(bytes)
}

func (p *infoText) device(r *row) {
	title := fmt.Sprintf("Device %d", r.ID)
	if r.Config != nil && r.Config.Name != "" {
		title += " (" + table.Escape(r.Config.Name) + ")"
	}
	p.section(title)
	state := r.state().Text(false)
	if r.Health != "" && r.Health != sysfs.Dead {
		state += ", " + string(r.Health)
	}
	p.line("State", state)
	p.line("Char device", ctrl.CharPath(r.ID))
	if r.Disk != nil {
		p.linef("Node", "/dev/%s (%s)", r.Disk.Name, r.Disk.Dev)
		p.linef("Size", "%s (%d bytes)%s", units.FormatSize(r.Disk.Size), r.Disk.Size, ifTrue(r.Disk.ReadOnly, ", read-only"))
	} else {
		p.line("Node", "none")
	}
	if c := r.Config; c != nil {
		p.line("Type", c.Type)
		p.line("Backing", c.Options["file"])
		for _, name := range sortedKeys(c.Options) {
			if name != "file" {
				p.linef("Option", "%s=%s", name, c.Options[name])
			}
		}
	}
	if r.Info != nil {
		p.info(r)
	}
	p.recovery(r)
	p.parameters(r.Detail)
	p.queues(r)
	p.server(r)
	p.users(r)
	p.counters(r)
	p.published(r.Detail.Page)
	p.crash(r.Detail.Crash)
}

func (p *infoText) info(r *row) {
	i := r.Info
	queues := fmt.Sprint(i.Queues)
	if r.Config != nil && r.Config.Queues > i.Queues {
		queues += fmt.Sprintf(" (of %d asked for)", r.Config.Queues)
	}
	p.linef("Queues", "%s, depth %d", queues, i.Depth)
	p.linef("Largest request", "%s", p.size(uint64(i.MaxIOBytes)))
	p.line("Data", r.dataMode().Text(false))
	p.linef("Owner", "uid %d, gid %d", i.OwnerUID, i.OwnerGID)
	p.linef("Server flags", "%#x", i.ServerFlags)
	p.linef("Flags", "%#x", uint64(i.Flags))
	p.line("", i.Flags.Names()...)
	if r.Detail.Folder != "" {
		p.line("State folder", r.Detail.Folder)
	}
}

// recovery is the mode, and what happens now where there is no server.
func (p *infoText) recovery(r *row) {
	if r.Info == nil {
		return
	}
	text := r.Info.Recovery().String()
	waiting := ""
	if d := r.Detail; d.Stat != nil && d.Stat.InFlight > 0 {
		waiting = "; " + units.Counted(d.Stat.InFlight, "request") + " waiting"
	}
	switch r.Info.State {
	case ctrl.Quiesced:
		text += ": no server, I/O waits for one" + waiting
	case ctrl.FailIO:
		text += ": no server, I/O fails until there is one"
	}
	p.line("Recovery", text)
}

func (p *infoText) queues(r *row) {
	if len(r.Detail.Affinity) == 0 {
		return
	}
	p.section("Queues")
	for queue, cpus := range r.Detail.Affinity {
		p.linef(fmt.Sprintf("Queue %d", queue), "CPUs %s", units.FormatCPUs(cpus))
	}
}

func (p *infoText) server(r *row) {
	p.section("Server")
	s := r.Server
	switch {
	case r.Info == nil:
		p.line("Process", "unknown")
		return
	case s == nil:
		p.line("Process", "none")
		return
	}
	p.linef("Process", "%d (%s)", s.PID, s.Comm)
	p.line("Command", strings.Join(s.Command, " "))
	p.line("State", processState(s.State))
	p.linef("Uptime", "%s, CPU time %s", units.FormatAge(s.Uptime), s.CPU.Round(10*time.Millisecond))
	p.linef("Memory", "%s resident", p.size(s.RSS))
	p.linef("Threads", "%d", s.Threads)
	p.linef("User", "uid %d", s.UID)
	p.line("I/O flusher", map[bool]string{true: "yes", false: "no"}[s.IOFlusher()])
}

func processState(state byte) string {
	words := map[byte]string{
		'R': "running", 'S': "asleep", 'D': "in a wait that cannot be interrupted", 'T': "stopped by a signal",
		't': "stopped by a tracer", 'Z': "zombie", 'X': "dead", 'I': "idle",
	}
	return fmt.Sprintf("%c (%s)", state, words[state])
}

func (p *infoText) users(r *row) {
	p.section("Users")
	switch d := r.Detail; {
	case d.UsersError != nil:
		p.linef("", "unknown: %v", d.UsersError)
	case len(d.Users) == 0 && d.UsersPartial:
		p.line("", "none seen; other users' processes cannot be looked at")
	case len(d.Users) == 0:
		p.line("", "none")
	default:
		for _, u := range d.Users {
			p.line(string(u.Kind), u.String())
		}
	}
}

func (p *infoText) counters(r *row) {
	s := r.Detail.Stat
	if s == nil {
		return
	}
	p.section("Counters of the block layer")
	counts := func(label string, c sysfs.Counts) {
		p.linef(label, "%s, %s", units.Counted(c.Ops, "request"), p.size(c.Sectors*ctrl.SectorSize))
	}
	counts("Read", s.Read)
	counts("Written", s.Write)
	counts("Discarded", s.Discard)
	p.linef("Flushes", "%d", s.FlushOps)
	inflight := fmt.Sprint(s.InFlight)
	if i := r.Detail.Inflight; i != nil {
		inflight += fmt.Sprintf(", in the driver %s and %s", units.Counted(i.Reads, "read"), units.Counted(i.Writes, "write"))
	}
	p.line("In flight", inflight)
}

// published is what a server of ours says about itself.
func (p *infoText) published(page *pageView) {
	if page == nil {
		return
	}
	if page.Dead {
		p.section(fmt.Sprintf("Statistics of server %d, which is gone", page.PID))
	} else {
		p.section("Statistics of the server")
	}
	for kind := range stats.Kinds {
		if c := page.Count[kind]; c.IOs > 0 {
			p.linef(kind.String(), "%s, %s, %s", units.Counted(c.IOs, "request"), p.size(c.Bytes), units.Counted(c.Errors, "error"))
		}
	}
	for i, name := range histogramNames {
		p50, ok := page.Hist[i].Quantile(0.5)
		p99, _ := page.Hist[i].Quantile(0.99)
		if ok {
			p.linef(name+" latency", "p50 %s, p99 %s", timeText(p50), timeText(p99))
		}
	}
	if page.Dead { // see crash
		return
	}
	p.linef("In flight", "%s%s", units.Counted(len(page.Held), "request"), ifTrue(page.Torn, " (in the middle of a batch)"))
	for _, t := range page.Held {
		p.linef("", "queue %d tag %d: %s of %d bytes at sector %d, since %s", t.Queue, t.Tag, t.Op, t.Bytes, t.Sector,
			units.FormatAge(time.Duration(t.Age*float64(time.Second))))
	}
}

// timeText is a time in nanoseconds with its unit in full: 3ms, not 3m. What was
// answered in the batch that it came in is not measured.
func timeText(ns uint64) string {
	if ns == 0 {
		return "at once"
	}
	return strings.TrimSuffix(units.FormatLatency(time.Duration(ns)), "s") + "s"
}

func ifTrue(condition bool, text string) string {
	if condition {
		return text
	}
	return ""
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
