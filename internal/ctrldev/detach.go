package ctrldev

import (
	"bytes"
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

	"ublk/internal/uapi"
)

// Detached submits commands that cannot hang itself and hands all others to
// helper processes. A worker of the kernel that is stuck behind a mutex or in
// disk removal keeps the process that submitted the command from exiting, even
// by SIGKILL; so that process must not be the one a person waits for. Every
// command in flight has a helper of its own; a helper whose command was given
// up is killed, idle ones are kept for the next command.
type Detached struct {
	inline  Driver
	command func() *exec.Cmd

	mu     sync.Mutex
	closed bool
	idle   []*helper
}

type helper struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	enc *gob.Encoder
	dec *gob.Decoder
}

type request struct{ Command }

type response struct {
	Res     int32
	Errno   int    // of the driver, or of Syscall
	Syscall string // that failed before the driver was asked
	Err     string // any other error
	Buf     []byte
}

// Detach puts helper processes beside inline. command makes one; it must call
// Serve on its standard input and output.
func Detach(inline Driver, command func() *exec.Cmd) *Detached {
	return &Detached{inline: inline, command: command}
}

// Submit implements Driver. REG_BUF is about the memory of the process that
// submits it, so it is never handed over, although it can hang.
func (d *Detached) Submit(ctx context.Context, c *Command) (int32, error) {
	if Inline(c.Op) || c.Op == uapi.CmdRegBuf {
		return d.inline.Submit(ctx, c)
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	h, err := d.take()
	if err != nil {
		return 0, err
	}
	type answer struct {
		response
		err error
	}
	done := make(chan answer, 1)
	req := request{*c}
	req.Buf = bytes.Clone(c.Buf) // the caller's own again as soon as the command is given up
	go func() {
		var a answer
		if a.err = h.enc.Encode(req); a.err == nil {
			a.err = h.dec.Decode(&a.response)
		}
		done <- a
	}()
	select {
	case a := <-done:
		if a.err != nil {
			h.kill()
			return 0, fmt.Errorf("control helper: %w", a.err)
		}
		copy(c.Buf, a.Buf)
		d.put(h)
		return a.result()
	case <-ctx.Done():
		h.kill()
		return 0, ctx.Err()
	}
}

// take finds an idle helper or starts one.
func (d *Detached) take() (*helper, error) {
	d.mu.Lock()
	if n := len(d.idle); n > 0 {
		h := d.idle[n-1]
		d.idle = d.idle[:n-1]
		d.mu.Unlock()
		return h, nil
	}
	d.mu.Unlock()
	return start(d.command())
}

func (d *Detached) put(h *helper) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		h.end()
		return
	}
	d.idle = append(d.idle, h)
}

func (r *response) result() (int32, error) {
	switch {
	case r.Syscall != "":
		return 0, os.NewSyscallError(r.Syscall, unix.Errno(r.Errno))
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

// kill ends a helper without waiting for it: it may be pinned in the kernel.
// Its death cancels a command that sleeps interruptibly.
func (h *helper) kill() {
	_ = h.cmd.Process.Kill()
	_ = h.in.Close()
	go func() { _ = h.cmd.Wait() }()
}

// end lets an idle helper go.
func (h *helper) end() {
	_ = h.in.Close()
	_ = h.cmd.Wait()
}

// Close ends the helpers and the inline driver. Commands in flight go on until
// their contexts end.
func (d *Detached) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for _, h := range d.idle {
		h.end()
	}
	d.idle = nil
	return d.inline.Close()
}

// Serve is the helper process: it submits to drv what it reads from in and
// answers on out until in ends. The end of in also ends the command that is
// under way, so that a helper does not outlive the process that it helps by
// longer than the kernel insists on.
func Serve(drv Driver, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	requests, ended := make(chan request), make(chan error, 1)
	go func() {
		dec := gob.NewDecoder(in)
		for {
			var r request
			if err := dec.Decode(&r); err != nil {
				cancel()
				ended <- err
				return
			}
			requests <- r
		}
	}()
	enc := gob.NewEncoder(out)
	for {
		select {
		case err := <-ended:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case r := <-requests:
			res, err := drv.Submit(ctx, &r.Command)
			if err := enc.Encode(respond(res, err, r.Buf)); err != nil {
				return err
			}
		}
	}
}

func respond(res int32, err error, buf []byte) response {
	var errno unix.Errno
	var sys *os.SyscallError
	switch {
	case err == nil:
		return response{Res: res, Buf: buf}
	case errors.As(err, &sys) && errors.As(sys.Err, &errno):
		return response{Errno: int(errno), Syscall: sys.Syscall}
	case errors.As(err, &errno):
		return response{Errno: int(errno)}
	}
	return response{Err: err.Error()}
}

// HelperCommand runs this executable again with args as the helper.
func HelperCommand(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Stderr = os.Stderr
	return cmd
}
