package server

import (
	"golang.org/x/sys/unix"

	"ublk/internal/uapi"
)

// User copy: data moves by pread and pwrite on the char device, at a position
// that names queue and tag.

// copyIn fetches the data of a write in user-copy mode.
func (q *Queue) copyIn(r *Request) unix.Errno { return q.userCopy(unix.SYS_PREAD64, r) }

// copyOut delivers the data of a read in user-copy mode: its length or -errno.
func (q *Queue) copyOut(r *Request) int32 {
	if errno := q.userCopy(unix.SYS_PWRITE64, r); errno != 0 {
		return -int32(errno)
	}
	return int32(r.Len())
}

func (q *Queue) userCopy(call uintptr, r *Request) unix.Errno {
	base := int64(uapi.UserCopyBase) + int64(q.id)<<uapi.UserCopyQShift + int64(r.tag)<<uapi.UserCopyTagShift
	data := r.Data()
	for done := 0; done < len(data); {
		n, errno := copyData(call, q.dev.char, data[done:], base+int64(done))
		switch {
		case errno == unix.EINTR:
		case errno != 0:
			return errno
		case n == 0:
			return unix.EIO
		default:
			done += n
		}
	}
	return 0
}
