package server

import (
	"math/bits"
	"os"

	"ublk/ctrl"
)

// minMaxIO is the smallest "largest request": the driver wants a page.
func minMaxIO() uint32 { return uint32(os.Getpagesize()) }

// shiftOf is log2 of a power of two.
func shiftOf(n int) (uint8, bool) {
	if n <= 0 || n&(n-1) != 0 {
		return 0, false
	}
	return uint8(bits.TrailingZeros(uint(n))), true
}

// Geometry makes parameters of a plain disk: sizeBytes is rounded down to whole
// logical blocks of 1<<shift bytes. Physical blocks are 4 KiB or larger.
func Geometry(sizeBytes int64, shift uint8) ctrl.Params {
	physical := max(shift, 12)
	sectors := uint64(sizeBytes) / ctrl.SectorSize
	return ctrl.Params{Basic: &ctrl.BasicParams{
		LogicalBlockShift:  shift,
		PhysicalBlockShift: physical,
		IOMinShift:         physical,
		IOOptShift:         physical,
		DevSectors:         sectors >> (shift - 9) << (shift - 9),
	}}
}
