package cmd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"ublk/ctrl"
	"ublk/internal/table"
	"ublk/internal/uapi"
	"ublk/server"
	"ublk/server/target"
)

type addOptions struct {
	config     configFlags
	id         int
	noStart    bool
	dryRun     bool
	foreground bool
	json       bool
}

func newAddCommand(a *app) *cobra.Command {
	o := addOptions{id: -1}
	cmd := &cobra.Command{
		Use:   "add -t TYPE",
		Short: "make a device and serve it",
		Long: "Make a device, serve it in the background, wait until it is LIVE, and print its node.\n\n" +
			"The server outlives this command and the terminal. SIGTERM to it stops and deletes the device as soon as nobody uses it.\n\n" +
			"Types of disks:\n" + kindHelp() + "\n" + recoveryHelp,
		Example: "  ublk add -t null --size 10G\n  ublk add -t loop --file disk.img --recovery=reissue\n  ublk add -t null -n 3 -q 4 --recovery --name scratch",
		Args:    noAddArgs,
		RunE:    a.action(func(ctx context.Context, _ []string) error { return a.runAdd(ctx, &o) }),
	}
	flags := cmd.Flags()
	option(flags, &o.id, "number", "n", "", "make device `N` (default: the first free number)", number(0, maxID))
	o.config.add(cmd, slices.Concat(targetOptions(), configOptions()))
	flags.BoolVar(&o.noStart, "no-start", false, "only ADD_DEV and SET_PARAMS, and print the char device; ublk serve does the rest")
	flags.BoolVar(&o.dryRun, "dry-run", false, "print what would be sent to the driver")
	flags.BoolVar(&o.foreground, "foreground", false, "serve in this process until SIGINT or SIGTERM, then stop and delete")
	flags.BoolVarP(&o.json, "json", "J", false, "print the device as list -J does")
	cmd.MarkFlagsMutuallyExclusive("data", "zero-copy", "user-copy")
	cmd.MarkFlagsMutuallyExclusive("no-start", "foreground")
	return cmd
}

func kindHelp() string {
	var b strings.Builder
	for _, kind := range target.Kinds() {
		fmt.Fprintf(&b, "  %-8s %s\n", kind.Name, kind.Summary)
	}
	return b.String()
}

func (a *app) runAdd(ctx context.Context, o *addOptions) error {
	cfg, err := a.addConfig(ctx, o)
	if err != nil {
		return err
	}
	job := server.Job{Action: server.ActionAdd, ID: o.id, Config: cfg, JSON: o.json}
	switch {
	case o.dryRun:
		return a.planAdd(ctx, &job, o.noStart)
	case o.noStart:
		return a.addOnly(ctx, job)
	case o.foreground:
		return a.foreground(job)
	}
	return a.serveJob(ctx, job)
}

// addConfig is the configuration that was asked for. What the driver would drop
// silently is refused here.
func (a *app) addConfig(ctx context.Context, o *addOptions) (server.Config, error) {
	var cfg server.Config
	if err := o.config.apply(&cfg); err != nil {
		return cfg, err
	}
	switch {
	case cfg.Unprivileged && cfg.Recovery != ctrl.RecoveryNone:
		return cfg, usagef("--unprivileged and --recovery exclude each other: the driver does not recover devices of ordinary users")
	case cfg.Unprivileged && a.euid == 0:
		return cfg, usagef("--unprivileged is for ordinary users: the driver ignores it for root")
	}
	client, err := a.connect() // early: without the driver nothing else matters
	if err != nil {
		return cfg, err
	}
	if !o.config.changed("zero-copy") || cfg.Data != server.DataZeroCopy {
		return cfg, nil
	}
	have, err := client.Features(ctx)
	if have.Has(uapi.FlagAutoBufReg) {
		cfg.Data = server.DataAutoReg
	}
	return cfg, err
}

// serveJob starts a server in the background and prints the device that it made LIVE.
func (a *app) serveJob(ctx context.Context, job server.Job) error {
	var started *server.Started
	err := a.waiting("the device to become LIVE", func() string { return "" }, func() error {
		var err error
		started, err = a.spawn(ctx, job)
		return err
	})
	if err != nil {
		return err
	}
	return a.started(job, started)
}

// started says that a device is LIVE: its node on stdout, all else on stderr.
func (a *app) started(job server.Job, s *server.Started) error {
	a.warn(s.Warnings)
	return a.printDevice(s.ID, job.JSON)
}

func (a *app) warn(warnings []string) {
	for _, w := range warnings {
		fmt.Fprintf(a.stderr, "ublk: %s: warning: %s\n", a.name, table.Escape(w))
	}
}

// printDevice prints a device's node, or the device as list -J does.
func (a *app) printDevice(id int, asJSON bool) error {
	if !asJSON {
		_, err := fmt.Fprintln(a.stdout, ctrl.BlockPath(id))
		return err
	}
	client, err := a.connect()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookTime)
	defer cancel()
	r, err := a.look(ctx, client, id)
	if err != nil {
		return err
	}
	rows := []row{r}
	a.judge(ctx, rows)
	return deviceTable().Write(a.stdout, rows, table.Options{Format: table.JSON})
}

// addOnly makes a device without serving it.
func (a *app) addOnly(ctx context.Context, job server.Job) error {
	client, err := a.connect()
	if err != nil {
		return err
	}
	disk, err := target.Open(job.Config)
	if err != nil {
		return err
	}
	device, warnings, err := server.Create(ctx, client, job, disk)
	if err = errors.Join(err, disk.Close()); err != nil {
		return err
	}
	a.warn(warnings)
	if id := device.Info().ID; !job.JSON { // it has no disk yet
		_, err := fmt.Fprintln(a.stdout, ctrl.CharPath(id))
		return err
	}
	return a.printDevice(device.Info().ID, job.JSON)
}

// planAdd prints the control commands that would be sent.
func (a *app) planAdd(ctx context.Context, job *server.Job, noStart bool) error {
	client, err := a.connect()
	if err != nil {
		return err
	}
	have, err := client.Features(ctx)
	if err != nil {
		return err
	}
	disk, err := target.Open(job.Config)
	if err != nil {
		return err
	}
	defer disk.Close()
	plan, err := job.Config.Plan(disk, have)
	if err != nil {
		return err
	}
	id := pick[any](job.ID >= 0, job.ID, "auto")
	params := object{{"dev_id", id}}
	fields, err := paramFields(&plan.Params)
	if err != nil {
		return err
	}
	for _, f := range fields {
		params = append(params, field{f.Group + "." + f.Name, f.Value})
	}
	commands := []sent{
		{"ADD_DEV", object{
			{"dev_id", id}, {"nr_hw_queues", plan.Add.Queues}, {"queue_depth", plan.Add.Depth}, {"max_io_buf_bytes", plan.Add.MaxIOBytes},
			{"flags", pick(plan.Add.Flags == 0, "0", strings.Join(ctrl.Features(plan.Add.Flags).Names(), "|"))},
		}},
		{"SET_PARAMS", params},
	}
	if !noStart {
		commands = append(commands, sent{"START_DEV", object{{"dev_id", id}, {"pid", "the server's"}}})
	}
	if job.JSON {
		return a.printJSON(object{{"commands", commands}})
	}
	for _, c := range commands {
		if _, err := fmt.Fprintln(a.stdout, c); err != nil {
			return err
		}
	}
	return nil
}
