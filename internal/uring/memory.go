package uring

import (
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"ublk/internal/uapi"
)

// Map returns zeroed memory outside the Go heap, page aligned. The kernel is
// given addresses of such memory only: it neither moves nor is it reused while
// an operation in flight may still touch it.
func Map(size int) ([]byte, error) {
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	return mem, os.NewSyscallError("mmap", err)
}

// Unmap returns memory from Map. Nothing in flight may name it.
func Unmap(mem []byte) error { return os.NewSyscallError("munmap", unix.Munmap(mem)) }

// Addr is the address of memory from Map, as the kernel wants it.
func Addr(mem []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(mem)))) }

// View is memory from Map as values of a type without pointers, as many as fit.
func View[T any](mem []byte) []T {
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(mem))), len(mem)/int(unsafe.Sizeof(*new(T))))
}

// Timespec is a __kernel_timespec in mapped memory, for timeouts in flight.
func Timespec(mem []byte) *uapi.Timespec {
	_ = mem[unsafe.Sizeof(uapi.Timespec{})-1]
	return (*uapi.Timespec)(unsafe.Pointer(unsafe.SliceData(mem)))
}

// storeTail publishes the tail of a provided-buffer ring, which the kernel
// keeps in the last two bytes of entry 0 (struct io_uring_buf_ring). sync/atomic
// has no 16-bit store: the neighbouring Bid is ours too, so one 32-bit store of
// both is exact.
func storeTail(e *uapi.BufRingEntry, tail uint16) {
	w := (*uint32)(unsafe.Pointer(&e.Bid))
	atomic.StoreUint32(w, nativeU32(e.Bid, tail))
}

// nativeU32 is the word whose first two bytes in memory are lo.
func nativeU32(lo, hi uint16) uint32 {
	var w uint32
	p := (*[2]uint16)(unsafe.Pointer(&w))
	p[0], p[1] = lo, hi
	return w
}

// LockOnFault keeps the pages of mem in memory once they have been touched
// (mlock2 with MLOCK_ONFAULT): none is swapped out under an I/O, none is
// populated before it is used. ENOMEM and EPERM mean RLIMIT_MEMLOCK.
func LockOnFault(mem []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_MLOCK2, uintptr(Addr(mem)), uintptr(len(mem)), unix.MLOCK_ONFAULT)
	if errno != 0 {
		return os.NewSyscallError("mlock2", errno)
	}
	return nil
}
