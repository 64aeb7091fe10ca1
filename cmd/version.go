package cmd

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// Version is the release; a build without one is a development version.
const Version = "0.1.0"

type versionOptions struct{ json bool }

func newVersionCommand(a *app) *cobra.Command {
	var o versionOptions
	cmd := &cobra.Command{
		Use:   "version",
		Short: "print the version of ublk",
		Args:  noArgs,
		RunE:  a.action(func(context.Context, []string) error { return a.runVersion(o) }),
	}
	cmd.Flags().BoolVarP(&o.json, "json", "J", false, "print JSON")
	return cmd
}

// build is what the binary knows of itself.
type build struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func (a *app) runVersion(o versionOptions) error {
	b := build{Version: Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, setting := range info.Settings {
			switch setting.Key {
			case "vcs.revision":
				b.Revision = setting.Value
			case "vcs.modified":
				b.Modified = setting.Value == "true"
			}
		}
	}
	if o.json {
		return a.printJSON(b)
	}
	line := "ublk " + b.Version
	if b.Revision != "" {
		line += " (" + b.Revision[:min(12, len(b.Revision))]
		if b.Modified {
			line += ", modified"
		}
		line += ")"
	}
	_, err := fmt.Fprintf(a.stdout, "%s %s %s\n", line, b.Go, b.Platform)
	return err
}

// printJSON prints one value, indented.
func (a *app) printJSON(v any) error {
	encoder := json.NewEncoder(a.stdout)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "   ")
	return encoder.Encode(v)
}
