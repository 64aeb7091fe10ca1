package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/internal/units"
	"ublk/server"
	"ublk/server/target/fault"
)

type faultOptions struct {
	devices deviceArgs
	change  fault.Change
	json    bool
	timeout time.Duration
}

func newFaultCommand(a *app) *cobra.Command {
	o := faultOptions{change: fault.Change{Set: map[string]string{}}, timeout: ctrl.DefaultTimeout}
	cmd := &cobra.Command{
		Use:   "fault DEVICE",
		Short: "change the faults of a disk of type fault, and print them",
		Long: "Change what is wrong with a disk that was added with --type fault while it is in use, and print the settings in force. What is\n" +
			"not named stays as it is; an empty value takes a fault away. The change lasts as long as the server: a recovery starts with the\n" +
			"settings that the device was added with.\n\n" +
			"A request that is stuck, or torn, goes on when the settings no longer cover it. Until then it holds up what a hung server holds\n" +
			"up: stop and del wait for it; killing the server ends it.",
		Example: "  ublk add -t fault --on loop -f disk.img --delay 5ms --name slow\n  ublk fault slow --delay 'p50=1ms,p99=50ms' --error-rate 100%:read:EIO:2048-4095\n  ublk fault slow --clear",
		RunE:    a.action(func(ctx context.Context, args []string) error { return a.runFault(ctx, &o, args) }),
	}
	o.devices.one(a, cmd, 0)
	for _, s := range fault.Settings() {
		value := &faultValue{setting: s, set: o.change.Set}
		cmd.Flags().Var(value, s.Name, s.Usage)
	}
	cmd.Flags().BoolVar(&o.change.Clear, "clear", false, "take all faults away first")
	cmd.Flags().BoolVarP(&o.json, "json", "J", false, "print JSON")
	option(cmd.Flags(), &o.timeout, "timeout", "", units.FormatAge(o.timeout), "give up after `TIME` (seconds, or as in 500ms, 2m)", units.ParseDuration)
	return cmd
}

// faultValue is a setting on the command line.
type faultValue struct {
	setting fault.Setting
	set     map[string]string
}

// Set implements pflag.Value.
func (v *faultValue) Set(text string) error {
	if text != "" {
		if err := v.setting.Check(text); err != nil {
			return err
		}
	}
	v.set[v.setting.Name] = text
	return nil
}

func (v *faultValue) String() string { return v.set[v.setting.Name] }

// Type implements pflag.Value.
func (v *faultValue) Type() string { return "TEXT" }

func (a *app) runFault(ctx context.Context, o *faultOptions, args []string) error {
	id, _, err := o.devices.only(ctx, a, args)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	_, info, err := a.device(ctx, id)
	if err != nil {
		return err
	}
	if cfg, err := server.Remembered(info); err != nil || cfg.Type != "fault" {
		return hinted(fmt.Errorf("device %d is no disk of type fault", id), "Faults are for disks made for it: ublk add -t fault --on loop -f FILE")
	}
	change, err := json.Marshal(o.change)
	if err != nil {
		return err
	}
	answer, err := server.Ask(ctx, a.state.Dir(id), server.Call{Op: "control", Settings: change})
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("device %d: it has no server now", id)
	case err != nil:
		return err
	}
	return a.printFaults(answer.Settings, o.json)
}

// printFaults prints settings in the order of the help.
func (a *app) printFaults(settings json.RawMessage, asJSON bool) error {
	texts := map[string]string{}
	if err := json.Unmarshal(settings, &texts); err != nil {
		return err
	}
	fields := object{}
	for _, s := range fault.Settings() {
		if text, ok := texts[s.Name]; ok {
			fields = append(fields, field{s.Name, text})
		}
	}
	if asJSON {
		return a.printJSON(fields)
	}
	return a.printFields(fields)
}
