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
	} else if t.punches() {
		d.MaxSectors, d.MaxWriteZeroesSectors = maxSectors, maxSectors
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

// punches asks for a hole past the end of the file, which changes nothing:
// EOPNOTSUPP tells file systems without.
func (t *Target) punches() bool {
	end, err := t.file.Seek(0, 2)
	if err != nil {
		return false
	}
	const hole = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	return !errors.Is(unix.Fallocate(int(t.file.Fd()), hole, (end+4095)&^4095, 4096), unix.EOPNOTSUPP)
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
