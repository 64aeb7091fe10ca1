package uapi

import "unsafe"

// Payload is a structure that travels to or from the driver in a buffer.
type Payload interface {
	DevInfo | Params | BufReg | CtrlCmd
}

// Bytes is the memory of *p, for copying into or out of a buffer of the
// driver's. It lives as long as p and follows every change of it.
func Bytes[T Payload](p *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(p)), unsafe.Sizeof(*p))
}
