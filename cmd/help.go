package cmd

import (
	"context"

	"github.com/spf13/cobra"
)

func newHelpCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "show the help of a command",
	}
	cmd.RunE = a.action(func(_ context.Context, args []string) error { return a.runHelp(cmd.Root(), args) })
	cmd.ValidArgsFunction = func(_ *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		var words []string
		for _, c := range cmd.Root().Commands() {
			if len(args) == 0 && c.IsAvailableCommand() {
				words = append(words, c.Name()+"\t"+c.Short)
			}
		}
		return completeWords(words...)(nil, nil, typed)
	}
	return cmd
}

func (a *app) runHelp(root *cobra.Command, args []string) error {
	if len(args) == 0 {
		return root.Help()
	}
	if err := a.findCommand(root, args); err != nil {
		return err
	}
	found, _, err := root.Find(args)
	if err != nil {
		return err
	}
	return found.Help()
}
