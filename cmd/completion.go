package cmd

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

func newCompletionCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "print the completion script of a shell",
		Long:  "Print a script that completes commands, options, devices, columns and values. It asks ublk itself, which needs no privileges for that.",
		Example: "  ublk completion bash >/usr/share/bash-completion/completions/ublk\n" +
			"  ublk completion zsh >\"${fpath[1]}/_ublk\"\n" +
			"  ublk completion fish >~/.config/fish/completions/ublk.fish",
		ValidArgs: []string{"bash", "zsh", "fish"},
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
	}
	cmd.RunE = a.action(func(_ context.Context, args []string) error { return WriteCompletion(a.stdout, cmd.Root(), args[0]) })
	return cmd
}

// WriteCompletion writes the completion script of a shell: bash, zsh or fish.
func WriteCompletion(w io.Writer, root *cobra.Command, shell string) error {
	switch shell {
	case "bash":
		return writeBashCompletion(w, root)
	case "zsh":
		return root.GenZshCompletion(w)
	default:
		return root.GenFishCompletion(w, true)
	}
}

// writeBashCompletion writes cobra's script, but for what it does to commas: it
// escapes them, which bash does not ask for, and then finds no list of columns.
func writeBashCompletion(w io.Writer, root *cobra.Command) error {
	var script strings.Builder
	if err := root.GenBashCompletionV2(&script, true); err != nil {
		return err
	}
	text := script.String()
	for _, escaped := range []struct{ line, name string }{
		{`        printf -v comp "%q" "${compline%%$tab*}" &>/dev/null || comp=$(printf "%q" "${compline%%$tab*}")` + "\n", "comp"},
		{`        COMPREPLY[0]=$(printf "%q" "${COMPREPLY[0]%%$tab*}")` + "\n", "COMPREPLY[0]"},
	} {
		if strings.Count(text, escaped.line) != 1 {
			return fmt.Errorf("cobra's script for bash has changed: no line %q", escaped.line)
		}
		text = strings.Replace(text, escaped.line, escaped.line+"        "+escaped.name+"=${"+escaped.name+`//\\,/,}`+"\n", 1)
	}
	_, err := io.WriteString(w, text)
	return err
}
