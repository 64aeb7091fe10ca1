package sysfs

import (
	"strconv"
	"strings"
)

// Ring is what an io_uring instance shows of itself in fdinfo. All zero except
// FD means that the ring was busy at that moment, and says nothing.
type Ring struct {
	FD int
	// Commands in the kernel's hands are CachedSQHead - CachedCQTail, modulo 2³²,
	// as long as each gives one completion. An idle queue of the classic mode that
	// does its backend I/O elsewhere shows its depth.
	CachedSQHead, CachedCQTail uint32
	Files                      []string       // registered files: paths, or on old kernels last elements of paths
	Buffers                    map[int]uint64 // registered buffers in use: length in bytes by index
	BufferSlots                int            // in use or not
}

// Rings reads the io_uring instances that a process has open, which takes the
// same user or CAP_SYS_PTRACE.
func (f *FS) Rings(pid int) ([]Ring, error) {
	folder := "proc/" + strconv.Itoa(pid)
	fds, err := f.numbers(folder + "/fd")
	if err != nil {
		return nil, err
	}
	var rings []Ring
	for _, fd := range fds {
		if link, err := f.link(folder, "fd", strconv.Itoa(fd)); err != nil || link != ringLink {
			continue
		}
		text, err := f.word(folder, "fdinfo", strconv.Itoa(fd))
		if err != nil { // closed in between
			continue
		}
		ring := parseRing(text)
		ring.FD = fd
		rings = append(rings, ring)
	}
	return rings, nil
}

// ringLink is where /proc/PID/fd/N of an io_uring instance points to.
const ringLink = "anon_inode:[io_uring]"

// parseRing reads fdinfo (io_uring/fdinfo.c): "Key:\tvalue" lines, each followed by
// its list if it has one: "    0: /dev/ublkc0", "    5: 0x7f…/4096", "    6: <none>".
func parseRing(text string) Ring {
	ring := Ring{Buffers: map[int]uint64{}}
	section := ""
	for line := range strings.Lines(text) {
		key, value, found := strings.Cut(strings.TrimSpace(line), ":")
		if !found {
			continue
		}
		value = strings.TrimSpace(value)
		if index, err := strconv.Atoi(key); err == nil {
			ring.addItem(section, index, value)
			continue
		}
		section = key
		n, _ := strconv.ParseUint(value, 10, 32)
		switch key {
		case "CachedSqHead":
			ring.CachedSQHead = uint32(n)
		case "CachedCqTail":
			ring.CachedCQTail = uint32(n)
		case "UserBufs":
			ring.BufferSlots = int(n)
		}
	}
	return ring
}

func (r *Ring) addItem(section string, index int, value string) {
	switch section {
	case "UserFiles":
		if value != "<none>" {
			r.Files = append(r.Files, unescapeOctal(value))
		}
	case "UserBufs":
		_, length, found := strings.Cut(value, "/")
		if bytes, err := strconv.ParseUint(length, 10, 64); found && err == nil {
			r.Buffers[index] = bytes
		}
	}
}
