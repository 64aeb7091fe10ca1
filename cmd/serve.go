package cmd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/spf13/cobra"

	"ublk/ctrl"
	"ublk/internal/rundir"
	"ublk/internal/watch"
	"ublk/server"
)

type serveOptions struct {
	devices    deviceArgs
	config     configFlags
	foreground bool
	json       bool
}

func newServeCommand(a *app) *cobra.Command {
	var o serveOptions
	cmd := &cobra.Command{
		Use:   "serve DEVICE",
		Short: "serve a device that has no server",
		Long: "Serve a device that exists and has no server: one added with --no-start, one that was stopped or lost its server, or one that\n" +
			"waits for recovery. The configuration is the one that the device was added with, changed by the options given here; a device\n" +
			"that ublk did not add needs --type. Queues, depth, flags and parameters are the device's.",
		Example: "  ublk serve 0\n  ublk serve 3 --type loop --file disk.img",
		RunE:    a.action(func(ctx context.Context, args []string) error { return a.runServe(ctx, &o, args) }),
	}
	o.devices.one(a, cmd, 0)
	o.config.add(cmd, slices.DeleteFunc(slices.Concat(targetOptions(), configOptions()), func(c configOption) bool { return !c.serve }))
	cmd.Flags().BoolVar(&o.foreground, "foreground", false, "serve in this process until SIGINT or SIGTERM, then stop and delete")
	cmd.Flags().BoolVarP(&o.json, "json", "J", false, "print the device as list -J does")
	return cmd
}

func (a *app) runServe(ctx context.Context, o *serveOptions, args []string) error {
	id, _, err := o.devices.only(ctx, a, args)
	if err != nil {
		return err
	}
	unlock, err := a.lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	client, info, err := a.device(ctx, id)
	if err != nil {
		return err
	}
	if info.State == ctrl.Live {
		return fmt.Errorf("device %d: %w: process %d", id, server.ErrLive, info.ServerPID)
	}
	cfg, err := a.remembered(info, o.config.changed("type"))
	if err != nil {
		return err
	}
	if err := o.config.apply(&cfg); err != nil {
		return err
	}
	if server.ModeOf(info.Flags) != server.DataUserCopy || cfg.Data != server.DataNone {
		cfg.Data = server.ModeOf(info.Flags)
	}
	below, err := watch.Below(cfg)
	if err == nil {
		err = watch.Standing(ctx, client, a.fs, watch.Step{ID: id, Below: below}, func(int) bool { return false })
	}
	if err != nil {
		return err
	}
	job := server.Job{Action: server.ActionServe, ID: id, Config: cfg, JSON: o.json}
	if o.foreground {
		unlock()
		return a.foreground(job)
	}
	return a.serveJob(ctx, job)
}

// remembered is the configuration of a device, empty for one that ublk did not
// add, if the command line says what it shall be.
func (a *app) remembered(info ctrl.DevInfo, typeGiven bool) (server.Config, error) {
	cfg, err := server.Remembered(info)
	switch {
	case err == nil:
		return cfg, nil
	case typeGiven && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, rundir.ErrForeign)):
		return server.Config{Recovery: info.Recovery(), Queues: info.Queues, Depth: info.Depth, MaxIOBytes: info.MaxIOBytes, Unprivileged: info.Unprivileged()}, nil
	case errors.Is(err, fs.ErrNotExist):
		return cfg, hinted(fmt.Errorf("device %d: nothing is remembered of it: ublk did not add it, or another user did", info.ID), "Say what it is: ublk serve %d --type TYPE ...", info.ID)
	}
	return cfg, err
}
