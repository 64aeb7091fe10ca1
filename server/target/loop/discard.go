package loop

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
)

// maxSectors is the largest discard or write-zeroes: 1 GiB. One request is one
// operation, and nothing else of its tag moves meanwhile.
const maxSectors = 1 << 30 / ctrl.SectorSize

// discards announces what the backing can do: nothing is promised that is not
// tried first. A file system may lack fallocate, a block device discard.
func (t *Target) discards(granularity int) *ctrl.DiscardParams {
	d := &ctrl.DiscardParams{MaxSegments: 1}
	if t.block {
		granularity = queueNumber(t.file, "discard_granularity")
		if queueNumber(t.file, "discard_max_bytes") > 0 && granularity > 0 {
			d.MaxSectors = maxSectors
		}
		d.MaxWriteZeroesSectors = maxSectors // the block layer writes zeroes where it must
	} else {
		if t.allocates(unix.FALLOC_FL_PUNCH_HOLE) {
			d.MaxSectors = maxSectors
		}
		if t.allocates(unix.FALLOC_FL_ZERO_RANGE) {
			d.MaxWriteZeroesSectors = maxSectors
		}
		var st unix.Statfs_t
		if err := unix.Fstatfs(int(t.file.Fd()), &st); err == nil && st.Bsize >= ctrl.SectorSize && st.Bsize&(st.Bsize-1) == 0 {
			granularity = int(st.Bsize)
		}
	}
	if d.MaxSectors == 0 && d.MaxWriteZeroesSectors == 0 {
		return nil
	}
	if d.MaxSectors == 0 {
		d.MaxSegments = 0
	}
	d.Granularity = uint32(max(granularity, 1<<t.params.Basic.LogicalBlockShift))
	return d
}

// allocates asks for an operation past the end of the file, where it changes
// nothing but a block or two of reservation, taken back at once: EOPNOTSUPP
// tells file systems without it.
func (t *Target) allocates(mode uint32) bool {
	end, err := t.file.Seek(0, 2)
	if err != nil {
		return false
	}
	fd, beyond := int(t.file.Fd()), (end+4095)&^4095
	if errors.Is(unix.Fallocate(fd, mode|unix.FALLOC_FL_KEEP_SIZE, beyond, 4096), unix.EOPNOTSUPP) {
		return false
	}
	_ = unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, beyond, 4096)
	return true
}

// queueNumber reads a limit of a block device, or of the disk that it is a
// partition of, from sysfs; 0 where there is none.
func queueNumber(f *os.File, name string) int {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0
	}
	base := fmt.Sprintf("/sys/dev/block/%d:%d/", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	for _, dir := range []string{"queue/", "../queue/"} {
		if text, err := os.ReadFile(base + dir + name); err == nil {
			n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
			return n
		}
	}
	return 0
}
