package units

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// MaxCPU is the highest CPU number that ParseCPUs accepts: the largest NR_CPUS
// of any architecture is 8192. It keeps a mistyped range from filling memory.
const MaxCPU = 8191

// ParseCPUs reads a CPU list as the kernel and taskset write it: numbers and
// ranges, separated by commas: 0-3,8. Spaces after commas are allowed, as in
// blk-mq's cpu_list. The result is sorted and without duplicates; an empty
// list is an error.
func ParseCPUs(s string) ([]int, error) {
	var cpus []int
	for part := range strings.SplitSeq(s, ",") {
		low, high, isRange := strings.Cut(strings.TrimSpace(part), "-")
		first, err := parseCPU(s, low)
		if err != nil {
			return nil, err
		}
		last := first
		if isRange {
			if last, err = parseCPU(s, high); err != nil {
				return nil, err
			}
		}
		if last < first {
			return nil, fmt.Errorf("cpu list %q: range %d-%d is backwards", s, first, last)
		}
		for cpu := first; cpu <= last; cpu++ {
			cpus = append(cpus, cpu)
		}
		// Without this, repeating 0-8191 makes a list longer than any machine.
		if len(cpus) > MaxCPU {
			slices.Sort(cpus)
			cpus = slices.Compact(cpus)
		}
	}
	slices.Sort(cpus)
	return slices.Compact(cpus), nil
}

func parseCPU(list, number string) (int, error) {
	cpu, err := strconv.ParseUint(number, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("cpu list %q: %q is not a CPU number (like 0-3,8)", list, number)
	}
	if cpu > MaxCPU {
		return 0, fmt.Errorf("cpu list %q: CPU %d is beyond %d", list, cpu, MaxCPU)
	}
	return int(cpu), nil
}

// FormatCPUs prints CPU numbers as a list with ranges: 0-3,8. The argument need
// not be sorted and is not changed; none at all is "".
func FormatCPUs(cpus []int) string {
	sorted := slices.Compact(slices.Sorted(slices.Values(cpus)))
	var text []byte
	for start := 0; start < len(sorted); {
		end := start
		for end+1 < len(sorted) && sorted[end+1] == sorted[end]+1 {
			end++
		}
		if start > 0 {
			text = append(text, ',')
		}
		text = strconv.AppendInt(text, int64(sorted[start]), 10)
		if end > start {
			text = append(text, '-')
			text = strconv.AppendInt(text, int64(sorted[end]), 10)
		}
		start = end + 1
	}
	return string(text)
}
