package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
)

// Action is what a serving process is started for.
type Action string

// The actions of a Job.
const (
	ActionAdd     Action = "add"     // make a device and serve it
	ActionServe   Action = "serve"   // serve a device that was not started, or was stopped
	ActionRecover Action = "recover" // serve a device whose server died
	ActionStandby Action = "standby" // prepare, say so, and wait for another Job
)

// Job is what a serving process is told.
type Job struct {
	Action     Action `json:"action"`
	ID         int    `json:"id"` // -1: the driver picks
	Config     Config `json:"config"`
	Foreground bool   `json:"foreground,omitempty"`
	JSON       bool   `json:"json,omitempty"` // how the foreground process says that it is ready

	// Log is the file that becomes the device's log once it has a number.
	Log string `json:"log,omitempty"`

	// Hold makes a process that recovers open the target and compare it with the
	// device, say that it is prepared, and wait for the word before it goes on.
	Hold bool `json:"hold,omitempty"`

	// Warnings of those who prepared the process, to be passed on.
	Warnings []string `json:"warnings,omitempty"`
}

// Opener makes the target that a configuration names.
type Opener func(Config) (Target, error)

// Started is a device that has just become LIVE.
type Started struct {
	ID       int      `json:"id"`
	PID      int      `json:"pid"`
	Queues   int      `json:"queues"`
	Depth    int      `json:"depth"`
	Path     string   `json:"path"`
	Mode     string   `json:"mode"`
	Warnings []string `json:"warnings,omitempty"`

	// Of a recovery, on CLOCK_MONOTONIC in ns: when START_USER_RECOVERY was
	// accepted, and when END_USER_RECOVERY returned.
	Accepted int64 `json:"accepted,omitempty"`
	Live     int64 `json:"live,omitempty"`
}

// report is a message of a serving process to its parent. Each says one thing;
// the last is Started or Error.
type report struct {
	Standing bool       `json:"standing,omitempty"` // waits for a Job
	Prepared bool       `json:"prepared,omitempty"` // waits for the word to go
	Started  *Started   `json:"started,omitempty"`
	Error    *wireError `json:"error,omitempty"`
}

// wireError carries an error from one process to another: its text, and what
// errors.Is and errors.As are asked for on the other side.
type wireError struct {
	Text     string `json:"text"`
	Op       string `json:"op,omitempty"` // of a *ctrl.Error, with Dev
	Dev      int    `json:"dev"`
	Errno    int    `json:"errno,omitempty"`
	Syscall  string `json:"syscall,omitempty"` // of an *os.SyscallError around Errno
	Feature  string `json:"feature,omitempty"` // of a *ctrl.UnsupportedError, with Since
	Since    string `json:"since,omitempty"`
	Deadline bool   `json:"deadline,omitempty"`
	Live     bool   `json:"live,omitempty"`
	NoDriver bool   `json:"no_driver,omitempty"`
	Left     bool   `json:"left,omitempty"`

	Unsupported bool `json:"unsupported,omitempty"`
}

func toWire(err error) *wireError {
	w := &wireError{Text: err.Error(), Dev: -1}
	var ce *ctrl.Error
	if errors.As(err, &ce) {
		w.Op, w.Dev = ce.Op, ce.Dev
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		w.Errno = int(errno)
	}
	var se *os.SyscallError
	if errors.As(err, &se) && se.Err == errno {
		w.Syscall = se.Syscall
	}
	var ue *ctrl.UnsupportedError
	if errors.As(err, &ue) {
		w.Feature, w.Since = ue.Feature, ue.Since
	}
	w.Deadline = errors.Is(err, context.DeadlineExceeded)
	w.Live = errors.Is(err, ErrLive)
	w.NoDriver = errors.Is(err, ctrl.ErrNoDriver)
	w.Left = errors.Is(err, ErrLeft)
	w.Unsupported = errors.Is(err, errors.ErrUnsupported)
	return w
}

// remoteError is an error of another process.
type remoteError struct {
	text   string
	causes []error
}

func (e *remoteError) Error() string   { return e.text }
func (e *remoteError) Unwrap() []error { return e.causes }

func (w *wireError) err() error {
	e := &remoteError{text: w.Text}
	var cause error
	switch {
	case w.Feature != "":
		cause = &ctrl.UnsupportedError{Feature: w.Feature, Since: w.Since}
	case w.Errno != 0:
		cause = unix.Errno(w.Errno)
	}
	if w.Syscall != "" {
		cause = os.NewSyscallError(w.Syscall, cause)
	}
	if w.Op != "" && cause != nil {
		cause = &ctrl.Error{Op: w.Op, Dev: w.Dev, Err: cause}
	}
	if cause != nil {
		e.causes = append(e.causes, cause)
	}
	for _, s := range []struct {
		set bool
		err error
	}{{w.Deadline, context.DeadlineExceeded}, {w.Live, ErrLive}, {w.NoDriver, ctrl.ErrNoDriver}, {w.Left, ErrLeft}, {w.Unsupported, errors.ErrUnsupported}} {
		if s.set {
			e.causes = append(e.causes, s.err)
		}
	}
	return e
}

// readReport reads what a serving process says. One that dies first has said
// what it could in its log: then the error matches io.EOF.
func readReport(dec *json.Decoder) (report, error) {
	var r report
	err := dec.Decode(&r)
	switch {
	case err != nil:
		return r, fmt.Errorf("the serving process ended without a word: %w", err)
	case r.Error != nil:
		return r, r.Error.err()
	case !r.Standing && !r.Prepared && r.Started == nil:
		return r, errors.New("the serving process reported nothing")
	}
	return r, nil
}
