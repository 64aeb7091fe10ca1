package sysfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Uevent is the kernel's message about a ublk device or its disk. A crash, a
// quiesce and a recovery send none: only what comes, goes or changes size does.
type Uevent struct {
	Action    string // add, remove, change
	DevPath   string // /devices/virtual/block/ublkb0
	Subsystem string // ublk-char or block
	DevName   string // ublkc0, ublkb0, ublkb0p1
	DevType   string // disk or partition, for block
	ID        int    // of the ublk device; -1 if Lost
	Seq       uint64
	DiskSeq   uint64            // for block
	Resized   bool              // UPDATE_SIZE
	Env       map[string]string // all there is
	// Lost means that messages came faster than they were taken: nothing else is
	// set, and whatever the listener knows has to be read afresh.
	Lost bool
}

// ueventBuffer is the room for messages that have not been taken, in bytes. Each
// takes about 1 KiB of the kernel's accounting.
const ueventBuffer = 2 << 20

// Uevents listens for messages about ublk. It listens when it returns: what
// happens afterwards is not missed. The channel closes when the context ends or
// the socket fails. No privilege is needed.
func Uevents(ctx context.Context) (<-chan Uevent, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("open uevent socket: %w", err)
	}
	file := os.NewFile(uintptr(fd), "uevents")
	// The forced size needs a privilege; without it the limit of the system holds.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, ueventBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, ueventBuffer)
	}
	// Group 1 is the kernel's own; udev's processed messages are in group 2.
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		file.Close()
		return nil, fmt.Errorf("bind uevent socket: %w", err)
	}
	events := make(chan Uevent)
	go func() {
		defer close(events)
		defer file.Close()
		defer interrupt(ctx, file)()
		for {
			event, err := receiveUevent(file)
			if err != nil {
				return
			}
			if event == nil {
				continue
			}
			select {
			case events <- *event:
			case <-ctx.Done():
				return
			}
		}
	}()
	return events, nil
}

// receiveUevent waits for one message; nil is one that is not about ublk.
func receiveUevent(file *os.File) (*Uevent, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	message := make([]byte, 8192) // the kernel's limit is 2048 of environment and the header
	var n int
	var from unix.Sockaddr
	var recvErr error
	err = raw.Read(func(fd uintptr) bool {
		n, from, recvErr = unix.Recvfrom(int(fd), message, 0)
		return recvErr != unix.EAGAIN && recvErr != unix.EINTR
	})
	switch {
	case err != nil:
		return nil, err
	case errors.Is(recvErr, unix.ENOBUFS):
		return &Uevent{ID: -1, Lost: true}, nil
	case recvErr != nil:
		return nil, recvErr
	}
	if sender, ok := from.(*unix.SockaddrNetlink); !ok || sender.Pid != 0 {
		return nil, nil // not from the kernel
	}
	if event, ok := parseUevent(message[:n]); ok {
		return &event, nil
	}
	return nil, nil
}

// parseUevent reads "action@devpath" and KEY=VALUE, each ended by a NUL. It
// returns false for what is malformed or not about ublk.
func parseUevent(message []byte) (Uevent, bool) {
	header, rest, _ := strings.Cut(string(message), "\x00")
	if !strings.Contains(header, "@") {
		return Uevent{}, false
	}
	env := map[string]string{}
	for pair := range strings.SplitSeq(rest, "\x00") {
		if key, value, found := strings.Cut(pair, "="); found {
			env[key] = value
		}
	}
	event := Uevent{
		Action: env["ACTION"], DevPath: env["DEVPATH"], Subsystem: env["SUBSYSTEM"], DevType: env["DEVTYPE"],
		DevName: strings.TrimPrefix(env["DEVNAME"], "/dev/"), Resized: env["RESIZE"] == "1", Env: env,
	}
	if event.Action == "" {
		return Uevent{}, false
	}
	event.Seq, _ = strconv.ParseUint(env["SEQNUM"], 10, 64)
	event.DiskSeq, _ = strconv.ParseUint(env["DISKSEQ"], 10, 64)
	var ok bool
	switch event.Subsystem {
	case "ublk-char":
		event.ID, ok = idOf(event.DevName, "ublkc")
	case "block":
		event.ID, _, ok = blockID(event.DevName)
	}
	return event, ok
}

// blockID returns N of ublkbN and of ublkbNpM, and the M, 0 for the whole disk.
func blockID(name string) (id, partition int, ok bool) {
	rest, ok := strings.CutPrefix(name, "ublkb")
	if !ok {
		return 0, 0, false
	}
	disk, part, isPartition := strings.Cut(rest, "p")
	if isPartition {
		if partition, ok = idOf(part, ""); !ok {
			return 0, 0, false
		}
	}
	id, ok = idOf(disk, "")
	return id, partition, ok
}
