package server

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
)

// manager is the end of systemd's private bus that a server talks to: it lets
// one client in and answers its call with answer. It returns the call.
func manager(t *testing.T, greeting string, answer []byte) (socket string, call func() ([]byte, error)) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "private")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	type result struct {
		call []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		call, err := serveOnce(l, greeting, answer)
		done <- result{call, err}
	}()
	return socket, func() ([]byte, error) { r := <-done; return r.call, r.err }
}

func serveOnce(l net.Listener, greeting string, answer []byte) ([]byte, error) {
	conn, err := l.Accept()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	auth, err := in.ReadString('\n')
	if want := fmt.Sprintf("\x00AUTH EXTERNAL %x\r\n", fmt.Sprint(os.Geteuid())); err != nil || auth != want {
		return nil, fmt.Errorf("greeted by %q, %w", auth, err)
	}
	if _, err := io.WriteString(conn, greeting); err != nil || !strings.HasPrefix(greeting, "OK ") {
		return nil, err
	}
	if begin, err := in.ReadString('\n'); err != nil || begin != "BEGIN\r\n" {
		return nil, fmt.Errorf("begun by %q, %w", begin, err)
	}
	call, err := readMessage(in)
	if err != nil {
		return nil, err
	}
	_, err = conn.Write(answer)
	return call, err
}

// readMessage reads one whole message.
func readMessage(r io.Reader) ([]byte, error) {
	head := make([]byte, 16)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	rest := make([]byte, (binary.LittleEndian.Uint32(head[12:])+7)/8*8+binary.LittleEndian.Uint32(head[4:]))
	_, err := io.ReadFull(r, rest)
	return append(head, rest...), err
}

// message is an answer: kind 2 return, 3 error, 4 signal.
func message(kind byte, text string) []byte {
	var body busMessage
	body.str(text)
	m := busMessage{b: []byte{'l', kind, 0, 1}}
	m.u32(uint32(len(body.b)))
	m.u32(7)
	m.array(8, func() { m.b = append(m.b, 5); m.sig("u"); m.u32(1) }) // in reply to
	m.align(8)
	return append(m.b, body.b...)
}

const hello = "OK 0123456789abcdef\r\n"

func TestScopeIsAskedFor(t *testing.T) {
	answer := append(message(4, "/somebody/elses"), message(2, "/org/freedesktop/systemd1/job/1")...) // signals come between
	socket, call := manager(t, hello, answer)
	if err := startScope(socket, "ublk-server-1.scope"); err != nil {
		t.Fatal(err)
	}
	sent, err := call()
	if err != nil {
		t.Fatal(err)
	}
	d := busReader{b: sent}
	if head := string(d.take(4)); head != "l\x01\x00\x01" {
		t.Errorf("a message of kind %q", head)
	}
	bodyBytes := int(d.u32())
	d.u32() // serial
	fields := map[byte]any{}
	d.array(8, func() {
		d.align(8)
		code := d.take(1)[0]
		fields[code] = d.variant()
	})
	d.align(8)
	for code, want := range map[byte]string{
		1: "/org/freedesktop/systemd1", 2: "org.freedesktop.systemd1.Manager", 3: "StartTransientUnit", 6: "org.freedesktop.systemd1", 8: "ssa(sv)a(sa(sv))",
	} {
		if fields[code] != want {
			t.Errorf("header field %d is %v, want %q", code, fields[code], want)
		}
	}
	d = busReader{b: d.b[d.at:]}
	if len(d.b) != bodyBytes {
		t.Errorf("a body of %d bytes, announced as %d", len(d.b), bodyBytes)
	}
	if name, mode := d.str(), d.str(); name != "ublk-server-1.scope" || mode != "fail" {
		t.Errorf("unit %q, mode %q", name, mode)
	}
	properties := map[string]any{}
	d.array(8, func() {
		d.align(8)
		name := d.str()
		properties[name] = d.variant()
	})
	d.array(8, func() { t.Error("auxiliary units") })
	if d.err != nil || d.at != len(d.b) {
		t.Errorf("%d of %d bytes make sense, %v", d.at, len(d.b), d.err)
	}
	want := map[string]any{
		"Description": "ublk server", "OOMPolicy": "continue", "CollectMode": "inactive-or-failed", "TasksMax": uint64(math.MaxUint64),
		"TimeoutStopUSec": uint64(math.MaxUint64), "DefaultDependencies": uint32(0), "PIDs": uint32(os.Getpid()),
	}
	if fmt.Sprint(properties) != fmt.Sprint(want) {
		t.Errorf("properties\n%v\nwant\n%v", properties, want)
	}
}

// TestScopeRefused: whatever goes wrong is an error, and says what the manager said.
func TestScopeRefused(t *testing.T) {
	huge := message(2, "")
	binary.LittleEndian.PutUint32(huge[4:], 1<<30)
	for _, tt := range []struct {
		name     string
		greeting string
		answer   []byte
		want     string
	}{
		{"not let in", "REJECTED EXTERNAL\r\n", nil, `systemd does not let us in: "REJECTED EXTERNAL"`},
		{"refused", hello, message(3, "Unit ublk-server-1.scope already exists."), "systemd: Unit ublk-server-1.scope already exists."},
		{"no answer", hello, nil, "systemd: EOF"},
		{"half an answer", hello, message(2, "/job/1")[:20], "systemd: unexpected EOF"},
		{"the other endian", hello, append([]byte{'B'}, message(2, "")[1:]...), "an answer that makes no sense"},
		{"too long", hello, huge, "an answer that makes no sense"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			socket, call := manager(t, tt.greeting, tt.answer)
			if err := startScope(socket, "ublk-server-1.scope"); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
			if _, err := call(); err != nil {
				t.Error(err)
			}
		})
	}
	if err := startScope(filepath.Join(t.TempDir(), "nobody"), "x.scope"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a manager: %v", err)
	}
}

// FuzzReadReply: no answer makes it fail other than by an error.
func FuzzReadReply(f *testing.F) {
	f.Add(message(2, "/job/1"))
	f.Add(message(3, "no"))
	f.Add([]byte("l\x03\x00\x01\x00\x00\x00\x00\x07\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(_ *testing.T, answer []byte) { _ = readReply(iotest.OneByteReader(bytes.NewReader(answer))) })
}

// busReader takes a message apart as the D-Bus specification says.
type busReader struct {
	b   []byte
	at  int
	err error
}

func (d *busReader) take(n int) []byte {
	if d.err != nil || d.at+n > len(d.b) {
		d.err = errors.Join(d.err, io.ErrUnexpectedEOF)
		return make([]byte, n)
	}
	d.at += n
	return d.b[d.at-n : d.at]
}

func (d *busReader) align(n int) {
	for d.at%n != 0 {
		if d.take(1)[0] != 0 {
			d.err = errors.New("padding that is not zero")
		}
	}
}

func (d *busReader) u32() uint32 { d.align(4); return binary.LittleEndian.Uint32(d.take(4)) }

func (d *busReader) text(n int) string {
	s := string(d.take(n + 1))
	if !strings.HasSuffix(s, "\x00") {
		d.err = errors.New("a string without its end")
	}
	return strings.TrimSuffix(s, "\x00")
}

func (d *busReader) str() string { return d.text(int(d.u32())) }

// array calls element until the bytes of the array are used up.
func (d *busReader) array(n int, element func()) {
	size := int(d.u32())
	d.align(n)
	for end := d.at + size; d.at < end && d.err == nil; {
		element()
	}
}

// variant reads a value of the types that are used; an array of one number is
// that number.
func (d *busReader) variant() (value any) {
	switch kind := d.text(int(d.take(1)[0])); kind {
	case "s", "o":
		return d.str()
	case "g":
		return d.text(int(d.take(1)[0]))
	case "b", "u":
		return d.u32()
	case "t":
		d.align(8)
		return binary.LittleEndian.Uint64(d.take(8))
	case "au":
		d.array(4, func() { value = d.u32() })
		return value
	default:
		d.err = fmt.Errorf("a value of type %q", kind)
		return nil
	}
}
