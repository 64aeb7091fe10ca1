// Package uring drives one io_uring instance: set-up, submission, completion
// and registrations. It knows nothing about ublk.
//
// A Ring belongs to one thread. With Config.SingleIssuer the kernel insists on
// it: the goroutine that calls New must have locked its OS thread and must make
// every later call itself. Nothing here is safe for concurrent use, and nothing
// on the submit and complete path allocates.
//
// Ring indices follow io_uring(7): cursors are kept privately, the shared head
// and tail are read once a batch and published once a batch.
package uring

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"ublk/internal/uapi"
)

// Config says what ring to set up.
type Config struct {
	Entries   uint32 // submission entries, rounded up to a power of two
	CQEntries uint32 // completion entries; 0 = twice Entries

	// SingleIssuer asks for SINGLE_ISSUER and DEFER_TASKRUN: completions are
	// run only inside the owner's own Enter.
	SingleIssuer bool

	// SQE128 doubles the submission entries; use SQE128 instead of SQE.
	SQE128 bool
}

// Ring is one io_uring instance.
type Ring struct {
	fd         int
	enterFD    uintptr // fd, or the index of the registered ring
	enterFlags uintptr
	setup      uint32

	sqTail    uint32 // ours: entries handed out
	sqHead    uint32 // last known kernel head
	sqMask    uint32
	sqEntries uint32
	kSQHead   *uint32
	kSQTail   *uint32
	sqes      []uapi.SQE
	sqes128   []uapi.SQE128

	cqHead  uint32 // ours: entries consumed
	cqMask  uint32
	kCQHead *uint32
	kCQTail *uint32
	cqes    []uapi.CQE
	ringMem []byte
	sqesMem []byte
}

// New sets up a ring, dropping flags that an older kernel does not know
// (NO_SQARRAY, then DEFER_TASKRUN for COOP_TASKRUN). The error is that of
// io_uring_setup(2): EPERM when io_uring is disabled, ENOSYS when it is not
// compiled in.
func New(cfg Config) (*Ring, error) {
	base := uapi.SetupClamp
	if cfg.CQEntries != 0 {
		base |= uapi.SetupCQSize
	}
	if cfg.SQE128 {
		base |= uapi.SetupSQE128
	}
	tries := []uint32{base | uapi.SetupNoSQArray, base}
	if cfg.SingleIssuer {
		single := base | uapi.SetupSingleIssuer | uapi.SetupDeferTaskrun
		tries = []uint32{single | uapi.SetupNoSQArray, single, base | uapi.SetupCoopTaskrun, base}
	}
	var err error
	for _, flags := range tries {
		var r *Ring
		if r, err = setup(cfg, flags); err == nil {
			return r, nil
		}
		if !errors.Is(err, unix.EINVAL) {
			break
		}
	}
	return nil, err
}

func setup(cfg Config, flags uint32) (*Ring, error) {
	p := uapi.RingParams{Flags: flags, CQEntries: cfg.CQEntries}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(cfg.Entries), uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return nil, os.NewSyscallError("io_uring_setup", errno)
	}
	r := &Ring{fd: int(fd), enterFD: fd, setup: flags}
	unix.CloseOnExec(r.fd)
	if err := r.mapRings(&p); err != nil {
		_ = r.Close()
		return nil, err
	}
	return r, nil
}

func (r *Ring) mapRings(p *uapi.RingParams) error {
	if p.Features&uapi.FeatSingleMmap == 0 || p.Features&uapi.FeatNoDrop == 0 || p.Features&uapi.FeatExtArg == 0 {
		return fmt.Errorf("io_uring: features %#x: kernel too old: %w", p.Features, errors.ErrUnsupported)
	}
	size := max(p.SQOff.Array+p.SQEntries*4, p.CQOff.CQEs+p.CQEntries*uint32(unsafe.Sizeof(uapi.CQE{})))
	var err error
	if r.ringMem, err = mapFD(r.fd, uapi.OffSQRing, int(size)); err != nil {
		return err
	}
	sqeSize := unsafe.Sizeof(uapi.SQE{})
	if r.setup&uapi.SetupSQE128 != 0 {
		sqeSize = unsafe.Sizeof(uapi.SQE128{})
	}
	if r.sqesMem, err = mapFD(r.fd, uapi.OffSQEs, int(uintptr(p.SQEntries)*sqeSize)); err != nil {
		return err
	}
	at := func(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.ringMem[off])) }
	r.kSQHead, r.kSQTail = at(p.SQOff.Head), at(p.SQOff.Tail)
	r.kCQHead, r.kCQTail = at(p.CQOff.Head), at(p.CQOff.Tail)
	r.sqMask, r.sqEntries, r.cqMask = *at(p.SQOff.RingMask), p.SQEntries, *at(p.CQOff.RingMask)
	r.cqes = unsafe.Slice((*uapi.CQE)(unsafe.Pointer(&r.ringMem[p.CQOff.CQEs])), p.CQEntries)
	if r.setup&uapi.SetupSQE128 != 0 {
		r.sqes128 = unsafe.Slice((*uapi.SQE128)(unsafe.Pointer(&r.sqesMem[0])), p.SQEntries)
	} else {
		r.sqes = unsafe.Slice((*uapi.SQE)(unsafe.Pointer(&r.sqesMem[0])), p.SQEntries)
	}
	if r.setup&uapi.SetupNoSQArray == 0 {
		array := unsafe.Slice(at(p.SQOff.Array), p.SQEntries)
		for i := range array {
			array[i] = uint32(i)
		}
	}
	return nil
}

func mapFD(fd int, off int64, size int) ([]byte, error) {
	mem, err := unix.Mmap(fd, off, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	return mem, os.NewSyscallError("mmap", err)
}

// Close ends the ring: the kernel cancels what is in flight. The registered
// ring and every registered file and buffer go with it.
func (r *Ring) Close() error {
	var errs []error
	if r.enterFlags&uapi.EnterRegisteredRing != 0 {
		errs = append(errs, r.unregisterRing())
	}
	for _, mem := range [][]byte{r.ringMem, r.sqesMem} {
		if mem != nil {
			errs = append(errs, unix.Munmap(mem))
		}
	}
	r.ringMem, r.sqesMem = nil, nil
	return errors.Join(append(errs, unix.Close(r.fd))...)
}

// FD is the ring's file descriptor, for fdinfo and for other rings' messages.
func (r *Ring) FD() int { return r.fd }

// DeferTaskrun reports whether completions run only inside Enter.
func (r *Ring) DeferTaskrun() bool { return r.setup&uapi.SetupDeferTaskrun != 0 }

// SQE hands out the next submission entry, zeroed, or nil when all entries are
// taken: call Flush and ask again. The entry is submitted by the next Enter.
func (r *Ring) SQE() *uapi.SQE {
	s := r.NextSQE()
	if s != nil {
		*s = uapi.SQE{}
	}
	return s
}

// NextSQE is SQE for callers that overwrite the whole entry: it holds what it
// was last used for.
func (r *Ring) NextSQE() *uapi.SQE {
	if r.sqTail-r.sqHead == r.sqEntries && r.full() {
		return nil
	}
	s := &r.sqes[r.sqTail&r.sqMask]
	r.sqTail++
	return s
}

// SQE128 is SQE for a ring set up with Config.SQE128.
func (r *Ring) SQE128() *uapi.SQE128 {
	if r.sqTail-r.sqHead == r.sqEntries && r.full() {
		return nil
	}
	s := &r.sqes128[r.sqTail&r.sqMask]
	r.sqTail++
	*s = uapi.SQE128{}
	return s
}

// full looks at what the kernel has taken meanwhile.
func (r *Ring) full() bool {
	r.sqHead = atomic.LoadUint32(r.kSQHead)
	return r.sqTail-r.sqHead == r.sqEntries
}

// Pending is the number of entries handed out and not yet taken by the kernel.
// Entries that a short submit left behind stay pending.
func (r *Ring) Pending() uint32 {
	r.sqHead = atomic.LoadUint32(r.kSQHead)
	return r.sqTail - r.sqHead
}

// Space is the number of entries that can be handed out without a Flush.
func (r *Ring) Space() uint32 { return r.sqEntries - r.Pending() }

// Ready is the number of completions that can be read with CQE.
func (r *Ring) Ready() uint32 { return atomic.LoadUint32(r.kCQTail) - r.cqHead }

// CQE is the i-th unread completion, i < Ready(). It is valid until Advance.
func (r *Ring) CQE(i uint32) *uapi.CQE { return &r.cqes[(r.cqHead+i)&r.cqMask] }

// Advance gives n completions back to the kernel.
func (r *Ring) Advance(n uint32) {
	r.cqHead += n
	atomic.StoreUint32(r.kCQHead, r.cqHead)
}
