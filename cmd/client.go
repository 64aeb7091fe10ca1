package cmd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"

	"github.com/spf13/cobra"

	"ublk/ctrl"
	"ublk/internal/ctrldev"
)

// helperCommand is the hidden command that carries out what can hang.
const helperCommand = "ctrl-helper"

// openDriver connects to the driver such that no command can keep this process
// from exiting.
func openDriver() (*ctrl.Client, error) {
	return ctrl.OpenDetached(func() *exec.Cmd {
		cmd := ctrldev.HelperCommand(helperCommand)
		// A helper that hangs in the kernel must not hold on to what others wait
		// for: the end of a pipe, an umount.
		cmd.Stderr, cmd.Dir = nil, "/"
		return cmd
	})
}

// newHelperCommand is the other end of openDriver. Signals from the terminal go
// to the person's process, and the end of this one's input ends it.
func newHelperCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:    helperCommand,
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			a.parsed = true
			nameProcess()
			return ctrl.ServeHelper()
		},
	}
}

// nameProcess lets ps show this process, started by way of /proc/self/exe, as
// what it is.
func nameProcess() { _ = os.WriteFile("/proc/self/comm", []byte("ublk"), 0) }

// controlError is a control node that cannot be opened.
type controlError struct{ error }

func (e controlError) Unwrap() error { return e.error }

func (e controlError) Error() string {
	var path *fs.PathError
	if errors.As(e.error, &path) {
		return fmt.Sprintf("cannot open %s: %v", path.Path, path.Err)
	}
	return e.error.Error()
}

// connect returns the client of this run, opened by the first who needs it.
func (a *app) connect() (*ctrl.Client, error) {
	if a.client == nil {
		client, err := a.open()
		if err != nil {
			return nil, controlError{err}
		}
		a.client = client
	}
	return a.client, nil
}

func (a *app) disconnect() {
	if a.client != nil {
		_ = a.client.Close()
		a.client = nil
	}
}

// device returns the client and what the driver says about a device; that it
// exists is so known before anything is done to it.
func (a *app) device(ctx context.Context, id int) (*ctrl.Client, ctrl.DevInfo, error) {
	client, err := a.connect()
	if err != nil {
		return nil, ctrl.DevInfo{}, err
	}
	info, err := client.Info(ctx, id)
	return client, info, err
}
