// Package uapi holds the constants and structures of the kernel headers that
// this program speaks: include/uapi/linux/ublk_cmd.h (v7.3) and the part of
// include/uapi/linux/io_uring.h that a ublk server needs.
//
// It imports nothing and decides nothing. Every structure has the exact layout
// of its C counterpart; sizes are asserted at compile time beside each of them,
// offsets by the tests. Constants keep their C names in a comment where Go
// naming changed them.
package uapi
