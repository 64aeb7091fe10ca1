package units

import (
	"math"
	"strconv"
)

// FormatCount prints a count or a rate of things in at most five cells, with
// decimal units: 0, 999, 1.1k, 182k, 1.1M. Below ten units it keeps one decimal.
// Below ten things a fraction is kept too (0.3), so that a rare event shows.
// Negative and NaN print as "-".
func FormatCount(n float64) string {
	return scaled(n, 1000, []string{"", "k", "M", "G", "T", "P", "E"})
}

// FormatRate prints bytes (a second) in at most five cells, with binary units:
// 0, 512, 4.3G, 711M. Negative and NaN print as "-".
func FormatRate(bytes float64) string {
	return scaled(bytes, 1024, []string{"", "K", "M", "G", "T", "P", "E"})
}

// scaled divides n by base until what it prints is below base.
func scaled(n, base float64, units []string) string {
	if math.IsNaN(n) || n < 0 {
		return "-"
	}
	last := len(units) - 1
	unit := 0
	for unit < last && math.Round(n) >= base {
		n /= base
		unit++
	}
	if unit == last && n > 99999 {
		return ">99E"
	}
	return threeDigits(n) + units[unit]
}

// threeDigits prints one decimal below ten, and none where it would be zero.
func threeDigits(n float64) string {
	tenths := math.Round(n * 10)
	if tenths >= 100 || math.Mod(tenths, 10) == 0 {
		return strconv.FormatFloat(math.Round(n), 'f', 0, 64)
	}
	return strconv.FormatFloat(tenths/10, 'f', 1, 64)
}
