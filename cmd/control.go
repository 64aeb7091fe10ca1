package cmd

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ublk/ctrl"
	"ublk/internal/units"
)

// controlOptions are those of the commands that send one control command.
type controlOptions struct {
	devices deviceArgs
	json    bool
	timeout time.Duration
}

// flags adds the options to cmd, which takes one DEVICE and extra arguments.
func (o *controlOptions) flags(a *app, cmd *cobra.Command, extra int) {
	o.devices.one(a, cmd, extra)
	cmd.Flags().BoolVarP(&o.json, "json", "J", false, "print JSON")
	o.timeout = ctrl.DefaultTimeout
	option(cmd.Flags(), &o.timeout, "timeout", "", units.FormatAge(o.timeout), "give up after `TIME` (seconds, or as in 500ms, 2m)", units.ParseDuration)
}

// deadline bounds a command. 0 is no time at all.
func (o *controlOptions) deadline(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, o.timeout)
}

// sent is a control command with the fields that were sent, for printing.
type sent struct {
	command string
	fields  object
}

type field struct {
	name  string
	value any
}

// String is the command as --dry-run and the control commands print it.
func (s sent) String() string {
	var b strings.Builder
	b.WriteString(s.command)
	for _, f := range s.fields {
		fmt.Fprintf(&b, " %s=%v", f.name, f.value)
	}
	return b.String()
}

// MarshalJSON is an object with the fields in their order.
func (s sent) MarshalJSON() ([]byte, error) {
	return json.Marshal(append(object{{"command", s.command}}, s.fields...))
}

// send sends one changing command to a device that exists, and prints it with
// the driver's answer the way strace would.
func (a *app) send(ctx context.Context, o *controlOptions, id int, s sent, do func(context.Context, *ctrl.Client) error) error {
	client, info, err := a.device(ctx, id)
	if err != nil {
		return err
	}
	ctx, cancel := o.deadline(ctx)
	defer cancel()
	s.fields = append(object{{"dev_id", id}}, s.fields...)
	err = a.waiting(s.command, func() string { return a.holdUp(info) }, func() error { return do(ctx, client) })
	if err != nil {
		return err
	}
	if o.json {
		s.fields = append(s.fields, field{"result", 0})
		return a.printJSON(s)
	}
	_, err = fmt.Fprintf(a.stdout, "%s = 0\n", s)
	return err
}

// printFields prints names and values in two columns.
func (a *app) printFields(fields object) error {
	width := 0
	for _, f := range fields {
		width = max(width, len(f.name))
	}
	var b strings.Builder
	for _, f := range fields {
		fmt.Fprintf(&b, "%-*s  %v\n", width, f.name, f.value)
	}
	_, err := fmt.Fprint(a.stdout, b.String())
	return err
}

// object is fields as a JSON object in their order.
type object []field

// MarshalJSON implements json.Marshaler.
func (o object) MarshalJSON() ([]byte, error) {
	out := []byte{'{'}
	for i, f := range o {
		value, err := json.Marshal(f.value)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			out = append(out, ',')
		}
		out = fmt.Appendf(out, `%q:%s`, f.name, value)
	}
	return append(out, '}'), nil
}
