package ctrldev

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Detached submits commands that cannot hang itself and hands all others to a
// helper process. A worker of the kernel that is stuck behind a mutex or in
// disk removal keeps the process that submitted the command from exiting, even
// by SIGKILL; so that process must not be the one a person waits for. The
// helper is started by the first command that needs it and replaced when a
// command is given up.
type Detached struct {
	inline  Driver
	command func() *exec.Cmd

	mu sync.Mutex // one command at a time in the helper; guards conn
	h  *helper
}

type helper struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	enc *gob.Encoder
	dec *gob.Decoder
}

type request struct{ Command }

type response struct {
	Res   int32
	Errno int
	Err   string
	Buf   []byte
}

// Detach puts a helper process beside inline. command makes the process; it
// must call Serve on its standard input and output.
func Detach(inline Driver, command func() *exec.Cmd) *Detached {
	return &Detached{inline: inline, command: command}
}

// Submit implements Driver.
func (d *Detached) Submit(ctx context.Context, c *Command) (int32, error) {
	if Inline(c.Op) {
		return d.inline.Submit(ctx, c)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if d.h == nil {
		h, err := start(d.command())
		if err != nil {
			return 0, err
		}
		d.h = h
	}
	type answer struct {
		response
		err error
	}
	done := make(chan answer, 1)
	go func(h *helper) {
		var a answer
		if a.err = h.enc.Encode(request{*c}); a.err == nil {
			a.err = h.dec.Decode(&a.response)
		}
		done <- a
	}(d.h)
	select {
	case a := <-done:
		if a.err != nil {
			d.giveUp()
			return 0, fmt.Errorf("control helper: %w", a.err)
		}
		copy(c.Buf, a.Buf)
		return a.result()
	case <-ctx.Done():
		d.giveUp()
		return 0, ctx.Err()
	}
}

func (r *response) result() (int32, error) {
	switch {
	case r.Errno != 0:
		return 0, unix.Errno(r.Errno)
	case r.Err != "":
		return 0, errors.New(r.Err)
	}
	return r.Res, nil
}

func start(cmd *exec.Cmd) (*helper, error) {
	// A group of its own: Ctrl-C at the terminal is for the person's process,
	// which then decides; the helper ends with its input.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("control helper: %w", err)
	}
	return &helper{cmd: cmd, in: in, enc: gob.NewEncoder(in), dec: gob.NewDecoder(out)}, nil
}

// giveUp kills the helper without waiting for it: it may be pinned in the
// kernel. Its death cancels a command that sleeps interruptibly.
func (d *Detached) giveUp() {
	h := d.h
	d.h = nil
	_ = h.cmd.Process.Kill()
	_ = h.in.Close()
	go func() { _ = h.cmd.Wait() }()
}

// Close ends the helper and the inline driver.
func (d *Detached) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.h != nil {
		_ = d.h.in.Close()
		_ = d.h.cmd.Wait()
		d.h = nil
	}
	return d.inline.Close()
}

// Serve is the helper process: it submits to drv what it reads from in and
// answers on out until in ends.
func Serve(drv Driver, in io.Reader, out io.Writer) error {
	dec, enc := gob.NewDecoder(in), gob.NewEncoder(out)
	for {
		var req request
		if err := dec.Decode(&req); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		var r response
		res, err := drv.Submit(context.Background(), &req.Command)
		var errno unix.Errno
		switch {
		case errors.As(err, &errno):
			r.Errno = int(errno)
		case err != nil:
			r.Err = err.Error()
		default:
			r.Res, r.Buf = res, req.Buf
		}
		if err := enc.Encode(&r); err != nil {
			return err
		}
	}
}

// HelperCommand runs this executable again with args as the helper.
func HelperCommand(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Stderr = os.Stderr
	return cmd
}
