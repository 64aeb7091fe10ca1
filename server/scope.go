package server

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"strings"
	"time"
)

// Where systemd's manager listens for root, and how one knows that it runs
// (sd_booted(3)).
const (
	managerSocket = "/run/systemd/private"
	bootedSign    = "/run/systemd/system"
)

// scopeTime bounds what the manager may take.
const scopeTime = 5 * time.Second

// enterScope moves this process into a transient scope of its own, where
// systemd is the init: a server must outlive the service or the session that
// started it. No default dependencies: nothing stops it at shutdown before the
// file systems on it are unmounted.
func enterScope() error {
	if _, err := os.Stat(bootedSign); err != nil || os.Geteuid() != 0 {
		return nil
	}
	name := fmt.Sprintf("ublk-server-%d.scope", os.Getpid())
	err := startScope(managerSocket, name)
	if err == nil {
		err = awaitCgroup(name)
	}
	if err != nil {
		return fmt.Errorf("%w: the server ends with what started it", err)
	}
	return nil
}

// startScope has the manager at a socket start a scope with this process in it.
func startScope(socket, name string) error {
	conn, err := net.DialTimeout("unix", socket, scopeTime)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(scopeTime)); err != nil {
		return err
	}
	in := bufio.NewReader(conn)
	if _, err := fmt.Fprintf(conn, "\x00AUTH EXTERNAL %x\r\n", fmt.Sprint(os.Geteuid())); err != nil {
		return err
	}
	line, err := in.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "OK ") {
		return errors.Join(fmt.Errorf("systemd does not let us in: %q", strings.TrimSpace(line)), err)
	}
	if _, err := conn.Write(append([]byte("BEGIN\r\n"), scopeCall(name, uint32(os.Getpid()))...)); err != nil {
		return err
	}
	return readReply(in)
}

// awaitCgroup waits for the move, which follows the answer.
func awaitCgroup(name string) error {
	for pause := time.Millisecond; pause < scopeTime; pause *= 2 {
		text, err := os.ReadFile("/proc/self/cgroup")
		if err != nil {
			return err
		}
		if strings.Contains(string(text), "/"+name) {
			return nil
		}
		time.Sleep(pause) // the job's end is announced on the bus alone
	}
	return fmt.Errorf("systemd has not moved process %d to %s", os.Getpid(), name)
}

// busMessage is a D-Bus message under construction, little endian
// (D-Bus specification, "Message Protocol").
type busMessage struct{ b []byte }

func (m *busMessage) align(n int) {
	for len(m.b)%n != 0 {
		m.b = append(m.b, 0)
	}
}

func (m *busMessage) u32(v uint32) { m.align(4); m.b = binary.LittleEndian.AppendUint32(m.b, v) }
func (m *busMessage) u64(v uint64) { m.align(8); m.b = binary.LittleEndian.AppendUint64(m.b, v) }

func (m *busMessage) str(s string) {
	m.u32(uint32(len(s)))
	m.b = append(append(m.b, s...), 0)
}

func (m *busMessage) sig(s string) { m.b = append(append(append(m.b, byte(len(s))), s...), 0) }

// array appends the length and what fill appends, whose elements are aligned to n.
func (m *busMessage) array(n int, fill func()) {
	m.u32(0)
	at := len(m.b)
	m.align(n)
	start := len(m.b)
	fill()
	binary.LittleEndian.PutUint32(m.b[at-4:], uint32(len(m.b)-start))
}

// property is a (sv): value appends the variant's content.
func (m *busMessage) property(name, sig string, value func()) {
	m.align(8)
	m.str(name)
	m.sig(sig)
	value()
}

// scopeCall is StartTransientUnit(name, "fail", properties, nothing more) of
// org.freedesktop.systemd1.Manager.
func scopeCall(name string, pid uint32) []byte {
	var body busMessage
	body.str(name)
	body.str("fail")
	body.array(8, func() {
		text := func(key, value string) { body.property(key, "s", func() { body.str(value) }) }
		limit := func(key string) { body.property(key, "t", func() { body.u64(math.MaxUint64) }) }
		text("Description", "ublk server")
		text("OOMPolicy", "continue")
		text("CollectMode", "inactive-or-failed")
		limit("TasksMax")
		limit("TimeoutStopUSec") // SIGTERM waits for the users of the disk; SIGKILL must not follow
		body.property("DefaultDependencies", "b", func() { body.u32(0) })
		body.property("PIDs", "au", func() { body.array(4, func() { body.u32(pid) }) })
	})
	body.array(8, func() {})

	const methodCall, version, serial = 1, 1, 1
	m := busMessage{b: []byte{'l', methodCall, 0, version}}
	m.u32(uint32(len(body.b)))
	m.u32(serial)
	m.array(8, func() {
		field := func(code byte, sig string, value func()) {
			m.align(8)
			m.b = append(m.b, code)
			m.sig(sig)
			value()
		}
		field(1, "o", func() { m.str("/org/freedesktop/systemd1") })
		field(2, "s", func() { m.str("org.freedesktop.systemd1.Manager") })
		field(3, "s", func() { m.str("StartTransientUnit") })
		field(6, "s", func() { m.str("org.freedesktop.systemd1") })
		field(8, "g", func() { m.sig("ssa(sv)a(sa(sv))") })
	})
	m.align(8)
	return append(m.b, body.b...)
}

// readReply reads messages until one is an answer.
func readReply(r io.Reader) error {
	const methodReturn, callFailed, most = 2, 3, 1 << 16
	for {
		var head [16]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return fmt.Errorf("systemd: %w", err)
		}
		body, fields := binary.LittleEndian.Uint32(head[4:]), binary.LittleEndian.Uint32(head[12:])
		if head[0] != 'l' || body > most || fields > most {
			return errors.New("systemd: an answer that makes no sense")
		}
		rest := make([]byte, (fields+7)&^7+body)
		if _, err := io.ReadFull(r, rest); err != nil {
			return fmt.Errorf("systemd: %w", err)
		}
		switch head[1] {
		case methodReturn:
			return nil
		case callFailed:
			text := rest[(fields+7)&^7:]
			return fmt.Errorf("systemd: %s", strings.Trim(string(text[min(4, len(text)):]), "\x00"))
		}
	}
}
