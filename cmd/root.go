// Package cmd is the command line: the tree of commands, one file each, all of
// the same shape: newXCommand describes it, xOptions is what was typed, runX
// does it. Errors are turned into hints and exit codes in exit.go alone.
package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"ublk/ctrl"
	"ublk/internal/rundir"
	"ublk/internal/sysfs"
	"ublk/server"
)

// app is what the commands share: where they read and write, the machine that
// they look at and the ways to change it. Tests replace all of it.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	euid           int
	machine        string // root of /sys and /proc, "/"
	fs             *sysfs.FS
	state          rundir.Root
	open           func() (*ctrl.Client, error)
	spawn          func(context.Context, server.Job) (*server.Started, error)
	foreground     func(server.Job) error
	times          times

	client  *ctrl.Client // see connect
	name    string       // of the command, for errors
	parsed  bool         // the command line made sense: the command runs
	signals atomic.Int32 // the signal that ended the context

	toldLimits bool // that privileges are missing
}

func newApp() *app {
	return &app{
		stdin: os.Stdin, stdout: os.Stdout, stderr: &serialWriter{w: os.Stderr}, getenv: os.Getenv, euid: os.Geteuid(),
		machine: "/", fs: sysfs.New("/"), state: rundir.Default(),
		open: openDriver, spawn: server.Spawn, foreground: server.Foreground, times: usualTimes(),
	}
}

// Main runs this process's command line and returns its exit code.
func Main() int { return newApp().run(os.Args[1:]) }

// run runs one command line and returns the exit code.
func (a *app) run(args []string) int {
	root := newRootCommand(a)
	defer a.disconnect()
	if err := a.findCommand(root, args); err != nil {
		return a.report(err)
	}
	root.SetArgs(args)
	err := root.Execute()
	if err != nil && !a.parsed {
		err = usageError{err}
	}
	return a.report(err)
}

// findCommand says what was probably meant by a command that does not exist.
func (a *app) findCommand(root *cobra.Command, args []string) error {
	if len(args) > 0 && strings.HasPrefix(args[0], "__") { // the shell's completion
		return nil
	}
	found, rest, err := root.Find(args)
	if err == nil {
		a.name = strings.TrimPrefix(strings.TrimPrefix(found.CommandPath(), "ublk"), " ")
		return nil
	}
	err = usagef("unknown command %q", rest[0])
	if near := root.SuggestionsFor(rest[0]); len(near) > 0 {
		return hinted(err, "Did you mean %s?", strings.Join(near, " or "))
	}
	return hinted(err, "Try: ublk --help")
}

// usageHint points to the help of the command that was misused.
func (a *app) usageHint(error) string {
	return "Try: " + strings.TrimSpace("ublk "+a.name) + " --help"
}

// NewCommand is the whole tree, for the generators of the manual and of the
// completions.
func NewCommand() *cobra.Command { return newRootCommand(newApp()) }

func newRootCommand(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "ublk",
		Short: "administer, serve and watch ublk devices",
		Long: "ublk administers the ublk devices of any server, serves devices itself, and shows what they do.\n\n" +
			"A DEVICE is a number (0), a node (ublkb0, /dev/ublkb0, /dev/ublkc0) or the name given with add --name.",
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return errors.New("no command given")
		},
	}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.DisableSuggestions = true
	root.SuggestionsMinimumDistance = 2
	root.SetGlobalNormalizationFunc(dashes)
	root.SetFlagErrorFunc(unknownOption)
	root.SetUsageTemplate(usageTemplate + "{{if not .HasParent}}\n" + exitHelp() + "\nublk COMMAND --help tells more about a command.\n{{end}}")
	for i, group := range commands() {
		id := strconv.Itoa(i)
		root.AddGroup(&cobra.Group{ID: id, Title: group.title})
		for _, new := range group.commands {
			command := new(a)
			command.GroupID = id
			command.Use += " [OPTIONS]"
			command.DisableFlagsInUseLine = true
			root.AddCommand(command)
			if command.Name() == "help" {
				root.SetHelpCommand(command)
			}
		}
	}
	root.AddCommand(newHelperCommand(a), newJobCommand(a))
	return root
}

type commandGroup struct {
	title    string
	commands []func(*app) *cobra.Command
}

// commands are all commands but the hidden ones, as the help groups them.
func commands() []commandGroup {
	type list = []func(*app) *cobra.Command
	return []commandGroup{
		{"Devices:", list{newAddCommand, newServeCommand, newDelCommand, newListCommand, newInfoCommand, newResizeCommand, newFaultCommand}},
		{"Recovery:", list{newRecoverCommand, newWatchCommand, newUpgradeCommand}},
		{"Control commands, one each, named as the kernel names them:", list{
			newFeaturesCommand, newGetInfoCommand, newGetParamsCommand, newSetParamsCommand, newGetAffinityCommand, newGetFeaturesCommand,
			newStartCommand, newStopCommand, newQuiesceCommand, newUpdateSizeCommand, newStartRecoveryCommand, newEndRecoveryCommand,
		}},
		{"Looking:", list{newTopCommand, newStatCommand}},
		{"Shell:", list{newCompletionCommand, newVersionCommand, newHelpCommand}},
	}
}

// dashes makes - and _ the same in long options.
func dashes(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	return pflag.NormalizedName(strings.ReplaceAll(name, "_", "-"))
}

// action makes a cobra function of one that does a command's work. Errors from
// here on are no longer the command line's. The context ends with SIGINT and
// SIGTERM; a second signal ends the process.
func (a *app) action(do func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(_ *cobra.Command, args []string) error {
		a.parsed = true
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		signals := make(chan os.Signal, 1)
		// Never stopped: the process ends next, and a signal that comes when the
		// work is done must not make it look undone.
		signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
		go func() {
			select {
			case s := <-signals:
				a.signals.Store(int32(s.(syscall.Signal)))
				signal.Reset(syscall.SIGINT, syscall.SIGTERM)
				cancel()
			case <-ctx.Done():
			}
		}()
		return do(ctx, args)
	}
}

// caught is the signal that interrupted the command, 0 if none has.
func (a *app) caught() syscall.Signal { return syscall.Signal(a.signals.Load()) }

// colour says whether text on w may be coloured.
func (a *app) colour(w io.Writer) bool {
	return a.getenv("NO_COLOR") == "" && a.getenv("TERM") != "dumb" && isTerminal(w)
}

// exitHelp is the end of the help of all.
func exitHelp() string {
	var b strings.Builder
	b.WriteString("Exit status:\n")
	for _, e := range ExitCodes() {
		fmt.Fprintf(&b, "  %-8s  %s\n", e.Code, e.Meaning)
	}
	return b.String()
}

const usageTemplate = `Usage:
{{if .HasParent}}  {{.UseLine}}{{else}}  ublk COMMAND [DEVICE...] [OPTIONS]{{range $group := .Groups}}

{{.Title}}{{range $.Commands}}{{if (and (eq .GroupID $group.ID) (or .IsAvailableCommand (eq .Name "help")))}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}{{end}}{{end}}{{if .HasExample}}

Examples:
{{.Example}}{{end}}{{if .HasAvailableLocalFlags}}

Options:
{{.LocalFlags.FlagUsagesWrapped 120 | trimTrailingWhitespaces}}{{end}}
`
