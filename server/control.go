package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/internal/rundir"
)

// Call is one request to a running server, over the control socket in its
// state folder: one JSON object a line, answered by one line.
type Call struct {
	Op       string          `json:"op"` // "resize", "control"
	Size     int64           `json:"size,omitempty"`
	Settings json.RawMessage `json:"settings,omitempty"` // control: for the target, see Controller
}

// Answer is a server's answer to a Call.
type Answer struct {
	Error *wireError `json:"error,omitempty"`
	Size  int64      `json:"size,omitempty"` // resize: the capacity now, bytes

	Settings json.RawMessage `json:"settings,omitempty"` // control: the target's answer
}

// Ask sends call to the server of dir's device and returns its answer, or its
// error as if it were our own. fs.ErrNotExist and ECONNREFUSED: no server of
// ours is there.
func Ask(ctx context.Context, dir rundir.Dir, call Call) (Answer, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", dir.Socket())
	if err != nil {
		return Answer{}, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if err := json.NewEncoder(conn).Encode(call); err != nil {
		return Answer{}, errors.Join(ctx.Err(), err)
	}
	var a Answer
	if err := json.NewDecoder(conn).Decode(&a); err != nil {
		return Answer{}, errors.Join(ctx.Err(), fmt.Errorf("server of device %d: %w", dir.ID, err))
	}
	if a.Error != nil {
		return a, a.Error.err()
	}
	return a, nil
}

// control is the server's end of the socket. Calls are served one at a time,
// off the queue threads.
type control struct {
	listener net.Listener
	device   *Device
	dir      rundir.Dir
	log      *log.Logger
	mu       sync.Mutex // one call at a time
}

// listenControl listens in the state folder, replacing what a dead server left
// there.
func listenControl(dir rundir.Dir, d *Device, l *log.Logger) (*control, error) {
	path := dir.Socket()
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	listener, err := net.Listen("unix", path) // in a folder that only its owner may enter
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	c := &control{listener: listener, device: d, dir: dir, log: l}
	go c.accept()
	return c, nil
}

func (c *control) close() error { return c.listener.Close() }

func (c *control) accept() {
	for {
		conn, err := c.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			c.log.Printf("control socket: %v", err)
			return
		}
		go c.serve(conn.(*net.UnixConn))
	}
}

func (c *control) serve(conn *net.UnixConn) {
	defer conn.Close()
	if err := checkPeer(conn); err != nil {
		c.log.Printf("control socket: %v", err)
		return
	}
	dec, enc := json.NewDecoder(conn), json.NewEncoder(conn)
	for {
		var call Call
		if err := dec.Decode(&call); err != nil {
			return
		}
		a, err := c.answer(call)
		if err != nil {
			a.Error = toWire(err)
		}
		if err := enc.Encode(a); err != nil {
			return
		}
	}
}

// checkPeer lets in root and the user that the server runs as.
func checkPeer(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(cerr, err); err != nil {
		return err
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Getuid() {
		return fmt.Errorf("process %d of user %d is not allowed", cred.Pid, cred.Uid)
	}
	return nil
}

func (c *control) answer(call Call) (Answer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch call.Op {
	case "resize":
		ctx, cancel := context.WithTimeout(context.Background(), ctrl.DefaultTimeout)
		defer cancel()
		if err := c.device.Resize(ctx, call.Size); err != nil {
			return Answer{}, err
		}
		c.log.Printf("device %d: resized to %d bytes", c.device.info.ID, call.Size)
		if err := rememberSize(c.dir, call.Size); err != nil {
			c.log.Printf("device %d: the next server will not know its size: %v", c.device.info.ID, err)
		}
		return Answer{Size: call.Size}, nil
	case "control":
		t, ok := c.device.target.(Controller)
		if !ok {
			return Answer{}, fmt.Errorf("device %d: target %s has no settings to change: %w", c.device.info.ID, c.device.cfg.Type, errors.ErrUnsupported)
		}
		settings, err := t.Control(call.Settings)
		if err == nil {
			c.log.Printf("device %d: settings %s", c.device.info.ID, settings)
		}
		return Answer{Settings: settings}, err
	}
	return Answer{}, fmt.Errorf("operation %q: %w", call.Op, errors.ErrUnsupported)
}
