package server

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"ublk/internal/uapi"
	"ublk/internal/uring"
)

// Memory shared with the kernel: the descriptors that the driver writes, and
// the tags' I/O buffers. This is the one file of the package with unsafe in it.

// memory is one queue's share.
type memory struct {
	descs    []byte // mapping of the char device, read only
	buffers  []byte // depth × bufBytes, or nil
	scratch  []byte // one page: timespec of the heartbeat, eventfd counter
	timers   []byte // a timespec for every tag, or nil
	descSize int
	bufBytes int
}

// Offsets in the scratch page.
const (
	scratchTimespec = 0
	scratchCounter  = 64
)

// mapMemory maps the descriptors of a queue (ublk_drv.c:ublk_ch_mmap, v7.3: the
// stride between queues is that of the greatest depth, the length that of the
// real one) and, if bufBytes is not 0, a buffer of that size for every tag.
func mapMemory(char, queue, depth, descSize, bufBytes int, huge bool) (*memory, error) {
	page := os.Getpagesize()
	round := func(n int) int { return (n + page - 1) / page * page }
	m := &memory{descSize: descSize, bufBytes: bufBytes}
	var err error
	if m.descs, err = unix.Mmap(char, int64(queue)*int64(round(uapi.MaxQueueDepth*descSize)), round(depth*descSize),
		unix.PROT_READ, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		return nil, os.NewSyscallError("mmap of the descriptors", err)
	}
	if m.scratch, err = uring.Map(page); err != nil {
		return nil, errors.Join(err, m.unmap())
	}
	if bufBytes == 0 {
		return m, nil
	}
	if m.buffers, err = uring.Map(depth * bufBytes); err != nil {
		return nil, errors.Join(err, m.unmap())
	}
	// Transparent huge pages would quietly cost depth × bufBytes of memory for a
	// few small requests, so they are for those who ask.
	advice := unix.MADV_NOHUGEPAGE
	if huge {
		advice = unix.MADV_HUGEPAGE
	}
	_ = unix.Madvise(m.buffers, advice)
	// Without the privilege the buffers can be swapped out: slower, not wrong.
	_ = uring.LockOnFault(m.buffers)
	return m, nil
}

func (m *memory) unmap() error {
	var errs []error
	for _, mem := range []*[]byte{&m.descs, &m.buffers, &m.scratch, &m.timers} {
		if *mem != nil {
			errs = append(errs, uring.Unmap(*mem))
			*mem = nil
		}
	}
	return errors.Join(errs...)
}

// desc is the descriptor of tag.
func (m *memory) desc(tag int) *uapi.IODesc {
	_ = m.descs[(tag+1)*m.descSize-1]
	return (*uapi.IODesc)(unsafe.Pointer(&m.descs[tag*m.descSize]))
}

// buffer is the buffer of tag, nil where there are none.
func (m *memory) buffer(tag int) []byte {
	if m.buffers == nil {
		return nil
	}
	return m.buffers[tag*m.bufBytes:][:m.bufBytes:m.bufBytes]
}

// copyData moves data between a tag's buffer and its request by one raw
// pread or pwrite on the char device. It copies memory and cannot sleep on
// anything but a page fault.
func copyData(call uintptr, char int, buf []byte, off int64) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(call, uintptr(char), uintptr(unsafe.Pointer(unsafe.SliceData(buf))), uintptr(len(buf)), uintptr(off), 0, 0)
	return int(n), errno
}
