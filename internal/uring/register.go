package uring

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"ublk/internal/uapi"
)

// RegisterRing makes Enter use a registered index instead of the descriptor,
// which saves a table look-up a call. The registration belongs to the calling
// thread. Kernels before 5.18 answer EINVAL; the ring works on without.
func (r *Ring) RegisterRing() error {
	u := uapi.RsrcUpdate{Offset: ^uint32(0), Data: uint64(r.fd)}
	if err := r.register(uapi.RegisterRingFDs, unsafe.Pointer(&u), 1); err != nil {
		return err
	}
	r.enterFD, r.enterFlags = uintptr(u.Offset), uapi.EnterRegisteredRing
	return nil
}

func (r *Ring) unregisterRing() error {
	u := uapi.RsrcUpdate{Offset: uint32(r.enterFD)}
	r.enterFD, r.enterFlags = uintptr(r.fd), 0
	return r.register(uapi.UnregisterRingFDs, unsafe.Pointer(&u), 1)
}

// RegisterFiles registers the descriptors as fixed files 0, 1, …. The ring
// holds a reference of its own to each until it is closed.
func (r *Ring) RegisterFiles(fds []int32) error {
	mem, err := Map(4 * len(fds))
	if err != nil {
		return err
	}
	defer Unmap(mem)
	copy(unsafe.Slice((*int32)(unsafe.Pointer(unsafe.SliceData(mem))), len(fds)), fds)
	reg := uapi.RsrcRegister{Nr: uint32(len(fds)), Data: Addr(mem)}
	return r.register(uapi.RegisterFiles2, unsafe.Pointer(&reg), uint32(unsafe.Sizeof(reg)))
}

// RegisterSparseBuffers makes a table of n empty fixed buffers, to be filled
// in by commands that register a request's pages.
func (r *Ring) RegisterSparseBuffers(n int) error {
	reg := uapi.RsrcRegister{Nr: uint32(n), Flags: uapi.RsrcRegisterSparse}
	return r.register(uapi.RegisterBuffers2, unsafe.Pointer(&reg), uint32(unsafe.Sizeof(reg)))
}

// RegisterBuffers registers memory from Map as fixed buffers 0, 1, …, which
// pins it: the limit is RLIMIT_MEMLOCK for the unprivileged (ENOMEM).
func (r *Ring) RegisterBuffers(bufs [][]byte) error {
	var v unix.Iovec
	mem, err := Map(len(bufs) * int(unsafe.Sizeof(v)))
	if err != nil {
		return err
	}
	defer Unmap(mem)
	iov := unsafe.Slice((*unix.Iovec)(unsafe.Pointer(unsafe.SliceData(mem))), len(bufs))
	for i, b := range bufs {
		iov[i].Base = unsafe.SliceData(b)
		iov[i].SetLen(len(b))
	}
	return r.register(uapi.RegisterBuffers, unsafe.Pointer(unsafe.SliceData(mem)), uint32(len(bufs)))
}

// register makes the call; the kernel has read arg when it returns.
func (r *Ring) register(op uintptr, arg unsafe.Pointer, nr uint32) error {
	_, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(r.fd), op, uintptr(arg), uintptr(nr), 0, 0)
	if errno != 0 {
		return os.NewSyscallError("io_uring_register", errno)
	}
	return nil
}

// BufferRing is a ring of provided buffers of one size: the kernel takes one
// for each completion of a request with IOSQE_BUFFER_SELECT.
type BufferRing struct {
	mem  []byte
	ring []uapi.BufRingEntry
	data []byte
	size int
	tail uint16
}

// RegisterBufferRing provides n buffers (a power of two) of size bytes each to
// buffer group id. It lives as long as the ring; Close it after the ring.
func (r *Ring) RegisterBufferRing(group uint16, n, size int) (*BufferRing, error) {
	ringBytes := n * int(unsafe.Sizeof(uapi.BufRingEntry{}))
	mem, err := Map(ringBytes + n*size)
	if err != nil {
		return nil, err
	}
	b := &BufferRing{
		mem:  mem,
		ring: unsafe.Slice((*uapi.BufRingEntry)(unsafe.Pointer(unsafe.SliceData(mem))), n),
		data: mem[ringBytes : ringBytes+n*size],
		size: size,
	}
	reg := uapi.BufRingReg{RingAddr: Addr(mem), RingEntries: uint32(n), Bgid: group}
	if err := r.register(uapi.RegisterPbufRing, unsafe.Pointer(&reg), 1); err != nil {
		_ = Unmap(mem)
		return nil, err
	}
	for i := range n {
		b.Recycle(uint16(i))
	}
	return b, nil
}

// Buffer is the memory of buffer id, as named by the CQE's upper flag bits.
func (b *BufferRing) Buffer(id uint16) []byte { return b.data[int(id)*b.size:][:b.size:b.size] }

// Recycle gives buffer id back to the kernel.
func (b *BufferRing) Recycle(id uint16) {
	e := &b.ring[int(b.tail)&(len(b.ring)-1)]
	e.Addr, e.Len, e.Bid = Addr(b.Buffer(id)), uint32(b.size), id
	b.tail++
	storeTail(&b.ring[0], b.tail)
}

// Close frees the memory. Only after the ring has been closed.
func (b *BufferRing) Close() error { return Unmap(b.mem) }
