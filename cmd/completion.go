package cmd

import (
	"context"
	"io"

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
		return root.GenBashCompletionV2(w, true)
	case "zsh":
		return root.GenZshCompletion(w)
	default:
		return root.GenFishCompletion(w, true)
	}
}
