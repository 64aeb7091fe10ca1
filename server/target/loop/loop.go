// Package loop is a disk in a regular file or on a block device.
//
// All its I/O is operations on the queues' own rings: with direct I/O, unless
// the caller or the file system wants it buffered. Flushes are fdatasync,
// discards punch holes or are passed on to the block device.
package loop

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/server"
)

// Options say what of the file becomes the disk.
type Options struct {
	File     string // absolute path
	Offset   int64  // first byte
	Size     int64  // 0: to the end of the file
	ReadOnly bool
	Buffered bool // through the page cache
	Shared   bool // others may write, too: nothing is claimed
}

// Target is a loop disk.
type Target struct {
	opts   Options
	file   *os.File
	block  bool // a block device
	direct bool
	params ctrl.Params
	notes  []string
}

// Open opens the file and looks at what it can do. Refused are directories and
// other things that are no disk, a file without one whole block, a range that
// is not in the file or not aligned to its blocks, and to write to what somebody
// else has claimed (EBUSY): a block device that is mounted, part of a volume or
// swap; a part of a regular file with a lock on it, as another loop has.
func Open(o Options) (*Target, error) {
	t := &Target{opts: o}
	if err := t.open(); err != nil {
		return nil, err
	}
	err := t.claim(o.Size)
	if err == nil {
		err = t.measure()
	}
	if err != nil {
		return nil, errors.Join(err, t.file.Close())
	}
	return t, nil
}

// open opens the file writable and direct where that is possible and wanted.
func (t *Target) open() error {
	st, err := os.Stat(t.opts.File)
	if err != nil {
		return err
	}
	mode := os.O_RDWR
	switch {
	case st.Mode().IsRegular():
	case st.Mode()&os.ModeDevice != 0 && st.Mode()&os.ModeCharDevice == 0:
		t.block = true
		if !t.opts.Shared {
			mode |= unix.O_EXCL // of a block device: nobody else may hold it
		}
	default:
		return &os.PathError{Op: "open", Path: t.opts.File, Err: fmt.Errorf("%w: neither a regular file nor a block device", unix.EINVAL)}
	}
	if t.opts.ReadOnly {
		mode &^= os.O_RDWR | unix.O_EXCL
	}
	t.file, err = t.openDirect(mode)
	if !t.opts.ReadOnly && (errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM)) {
		if ro, rerr := t.openDirect(mode &^ (os.O_RDWR | unix.O_EXCL)); rerr == nil {
			t.file, err = ro, nil
			t.protect()
		}
	}
	if err != nil || t.opts.ReadOnly || !t.block {
		return err
	}
	if ro, err := unix.IoctlGetInt(int(t.file.Fd()), unix.BLKROGET); err == nil && ro != 0 {
		t.protect() // such a device can be opened for writing, and refuses the writes
	}
	return nil
}

// protect makes the disk read-only, as its backing is.
func (t *Target) protect() {
	t.opts.ReadOnly = true
	t.notes = append(t.notes, t.opts.File+" cannot be written: the disk is read-only")
}

// claim locks size bytes of a regular file, 0: all from the disk's start on, for
// whoever else asks: other loops, virtual machines. The lock belongs to the open
// file, so it ends with the last ring that has it. A block device is claimed by
// O_EXCL; what is only read, not at all.
func (t *Target) claim(size int64) error {
	if t.block || t.opts.ReadOnly || t.opts.Shared {
		return nil
	}
	lock := unix.Flock_t{Type: unix.F_WRLCK, Start: t.opts.Offset, Len: size}
	err := unix.FcntlFlock(t.file.Fd(), unix.F_OFD_SETLK, &lock)
	if err == unix.EAGAIN || err == unix.EACCES {
		return fmt.Errorf("%s: somebody else has a lock on it: %w", t.opts.File, unix.EBUSY)
	}
	return nil // not every file system has locks
}

func (t *Target) openDirect(mode int) (*os.File, error) {
	if t.opts.Buffered {
		return os.OpenFile(t.opts.File, mode, 0)
	}
	f, err := os.OpenFile(t.opts.File, mode|unix.O_DIRECT, 0)
	if errors.Is(err, unix.EINVAL) {
		t.notes = append(t.notes, t.opts.File+" is on a file system without direct I/O: buffered")
		return os.OpenFile(t.opts.File, mode, 0)
	}
	t.direct = err == nil
	return f, err
}

// measure finds capacity, block sizes and abilities.
func (t *Target) measure() error {
	logical, physical, memAlign, err := t.blocks()
	if err != nil {
		return err
	}
	end, err := t.file.Seek(0, 2)
	if err != nil {
		return err
	}
	size := end - t.opts.Offset
	if t.opts.Size != 0 {
		size = t.opts.Size
	}
	switch {
	case t.opts.Offset < 0 || t.opts.Offset%int64(logical) != 0:
		return fmt.Errorf("%s: offset %d is not a multiple of the block size %d", t.opts.File, t.opts.Offset, logical)
	case size < int64(logical):
		return fmt.Errorf("%s: %d bytes at offset %d are less than one block of %d", t.opts.File, max(end-t.opts.Offset, 0), t.opts.Offset, logical)
	case t.opts.Size != 0 && (size%int64(logical) != 0 || t.opts.Offset+size > end):
		return fmt.Errorf("%s: size %d at offset %d: a multiple of %d, within the file's %d bytes", t.opts.File, size, t.opts.Offset, logical, end)
	}
	t.params = server.Geometry(size, log2(logical))
	b := t.params.Basic
	b.PhysicalBlockShift = max(b.LogicalBlockShift, log2(physical))
	b.IOMinShift = b.PhysicalBlockShift
	b.IOOptShift = b.PhysicalBlockShift
	b.ReadOnly = t.opts.ReadOnly
	b.VolatileCache, b.FUA = !t.opts.ReadOnly, !t.opts.ReadOnly
	b.Rotational = t.block && queueNumber(t.file, "rotational") == 1
	if t.direct {
		t.params.DMAAlign = &ctrl.DMAAlignParams{Mask: uint32(max(memAlign, 4) - 1)}
	}
	if !t.opts.ReadOnly {
		t.params.Discard = t.discards(physical)
	}
	return nil
}

// blocks are the sizes in bytes of the logical and physical block, and the
// alignment that direct I/O wants of memory.
func (t *Target) blocks() (logical, physical, memAlign int, err error) {
	fd := int(t.file.Fd())
	logical, physical, memAlign = ctrl.SectorSize, 4096, ctrl.SectorSize
	if t.block {
		if logical, err = unix.IoctlGetInt(fd, unix.BLKSSZGET); err != nil {
			return 0, 0, 0, &os.PathError{Op: "BLKSSZGET", Path: t.opts.File, Err: err}
		}
		physical, _ = unix.IoctlGetInt(fd, unix.BLKPBSZGET)
		memAlign = logical
	}
	if !t.direct {
		return logical, max(physical, logical), memAlign, nil
	}
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st); err == nil && st.Mask&unix.STATX_DIOALIGN != 0 && st.Dio_offset_align != 0 {
		return max(int(st.Dio_offset_align), logical), max(physical, int(st.Dio_offset_align)), int(st.Dio_mem_align), nil
	}
	if !t.block { // the file system does not say: its block size always works
		var fs unix.Statfs_t
		if err := unix.Fstatfs(fd, &fs); err == nil && fs.Bsize >= ctrl.SectorSize && fs.Bsize <= int64(os.Getpagesize()) {
			logical = int(fs.Bsize)
		}
	}
	return logical, max(physical, logical), memAlign, nil
}

// ReadAt implements io.ReaderAt, beside the queues, for whoever wraps the disk.
// With direct I/O p and off are aligned like requests, and p is no Go memory.
func (t *Target) ReadAt(p []byte, off int64) (int, error) {
	return t.file.ReadAt(p, t.opts.Offset+off)
}

// WriteAt implements io.WriterAt, under the conditions of ReadAt.
func (t *Target) WriteAt(p []byte, off int64) (int, error) {
	return t.file.WriteAt(p, t.opts.Offset+off)
}

// Sync returns when all that was written is on stable storage.
func (t *Target) Sync() error {
	return os.NewSyscallError("fdatasync", unix.Fdatasync(int(t.file.Fd())))
}

// Params implements server.Target.
func (t *Target) Params() ctrl.Params { return t.params }

// Modes implements server.Moder, best first.
func (t *Target) Modes() []server.DataMode {
	return []server.DataMode{server.DataAutoReg, server.DataCopy, server.DataUserCopy, server.DataZeroCopy}
}

// Files implements server.FileTarget: the backing file on every ring.
func (t *Target) Files() []int { return []int{int(t.file.Fd())} }

// Notes are remarks for whoever made the disk.
func (t *Target) Notes() []string { return t.notes }

// Close implements server.Target.
func (t *Target) Close() error { return t.file.Close() }

// Resize implements server.Resizer. A regular file grows with the disk; one
// that was given in part, and a block device, must be large enough already.
func (t *Target) Resize(bytes int64) error {
	end, err := t.file.Seek(0, 2)
	if err != nil {
		return err
	}
	want := t.opts.Offset + bytes
	switch {
	case want <= end && t.opts.Size != 0:
		return t.claim(bytes)
	case want <= end:
		return nil
	case t.block || t.opts.Size != 0 || t.opts.ReadOnly:
		return fmt.Errorf("%s has %d bytes, the disk would end at %d: %w", t.opts.File, end, want, unix.ENOSPC)
	}
	return t.file.Truncate(want)
}

func log2(n int) uint8 {
	var s uint8
	for n > 1 {
		n >>= 1
		s++
	}
	return s
}
