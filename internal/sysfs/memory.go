package sysfs

import (
	"fmt"
	"strings"
)

// MemAvailable is the kernel's estimate, in bytes, of the memory that can be had
// without swapping.
func (f *FS) MemAvailable() (uint64, error) {
	text, err := f.read("proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		var kib uint64
		if _, err := fmt.Sscanf(line, "MemAvailable: %d kB", &kib); err == nil {
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("%s: no MemAvailable", f.path("proc/meminfo"))
}
