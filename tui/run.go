package tui

import (
	"context"
	"errors"
	"io"

	tea "charm.land/bubbletea/v2"
)

// fps bounds how often the screen is drawn. The first frame waits for the first
// tick, and an idle program wakes up for every one: 20 are 50 ms and a third of
// a per cent of a CPU.
const fps = 20

// Run shows the screen until it is quit or ctx ends, which is no error, and
// leaves the terminal as it was. in is nil for standard input, or the terminal
// where that is something else. environ is as os.Environ's. Signals are the
// caller's to turn into the end of ctx.
func Run(ctx context.Context, in io.Reader, out io.Writer, environ []string, sampler Sampler, o Options) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	options := []tea.ProgramOption{
		tea.WithContext(ctx), tea.WithOutput(out), tea.WithEnvironment(environ),
		tea.WithoutSignalHandler(), tea.WithFPS(fps), tea.WithFilter(usualSize),
	}
	if in != nil {
		options = append(options, tea.WithInput(in))
	}
	_, err := tea.NewProgram(New(ctx, sampler, o), options...).Run()
	if ctx.Err() != nil && errors.Is(err, tea.ErrProgramKilled) && !errors.Is(err, tea.ErrProgramPanic) {
		return nil
	}
	return err
}

// usualSize is for terminals that do not know their size, as serial lines: the
// program itself, too, must draw on more than nothing.
func usualSize(_ tea.Model, msg tea.Msg) tea.Msg {
	if size, ok := msg.(tea.WindowSizeMsg); ok && (size.Width <= 0 || size.Height <= 0) {
		return tea.WindowSizeMsg{Width: 80, Height: 24}
	}
	return msg
}
