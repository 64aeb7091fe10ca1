package cmd

import (
	"github.com/spf13/cobra"

	"ublk/server"
	"ublk/server/target"
)

// newJobCommand is the serving process. It handles its signals itself.
func newJobCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:    server.JobCommand,
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE:   func(*cobra.Command, []string) error { return a.runJob() },
	}
}

// runJob serves. Once the device was LIVE, whatever ends it but a STOP or a
// QUIESCE is exit code 1: the device needs recovery.
func (a *app) runJob() error {
	a.parsed, a.name = true, "serve"
	nameProcess()
	live := false
	err := server.ServeJob(target.Open, func(job server.Job, s *server.Started) {
		live = true
		if err := a.started(job, s); err != nil {
			a.report(err)
		}
	})
	if err != nil && live {
		a.report(err)
		return reportedError{exitFailed}
	}
	return err
}
