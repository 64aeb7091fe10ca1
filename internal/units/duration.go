package units

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// FormatLatency prints a short time in at most five cells: 640n, 84µ, 5.2m
// (milliseconds), 1.2s, 310s. Zero is "0"; a negative time, which a clock that
// stepped can produce, is "-". The one letter outside ASCII is µ.
func FormatLatency(d time.Duration) string {
	if d < 0 {
		return "-"
	}
	if d == 0 {
		return "0"
	}
	n := float64(d)
	for _, unit := range []string{"n", "µ", "m"} {
		if math.Round(n) < 1000 {
			return threeDigits(n) + unit
		}
		n /= 1000
	}
	return threeDigits(n) + "s"
}

// FormatAge prints how long something has lasted, in its two largest units and
// whole seconds: 8s, 4m12s, 3h05m, 2d04h. Negative is "-".
func FormatAge(d time.Duration) string {
	if d < 0 {
		return "-"
	}
	seconds := int64(d / time.Second)
	minutes, hours, days := seconds/60, seconds/3600, seconds/86400
	switch {
	case minutes == 0:
		return fmt.Sprintf("%ds", seconds)
	case hours == 0:
		return fmt.Sprintf("%dm%02ds", minutes, seconds%60)
	case days == 0:
		return fmt.Sprintf("%dh%02dm", hours, minutes%60)
	default:
		return fmt.Sprintf("%dd%02dh", days, hours%24)
	}
}

// ParseDuration reads a time that a person typed: a plain number is seconds
// (2, 0.5), otherwise a unit follows as in time.ParseDuration (500ms, 2m, 1h30m).
// Negative times are refused.
func ParseDuration(s string) (time.Duration, error) {
	if strings.HasPrefix(s, "-") {
		return 0, fmt.Errorf("duration %q is negative", s)
	}
	text := s
	if number, unit := cutNumber(s); unit == "" && number != "" {
		text += "s"
	}
	d, err := time.ParseDuration(text)
	switch {
	case err != nil && strings.HasSuffix(s, "d"):
		return 0, fmt.Errorf("duration %q: days are not understood, use hours (h)", s)
	case err != nil:
		return 0, fmt.Errorf("duration %q is not a number of seconds or a time like 500ms, 2m, 1h30m", s)
	}
	return d, nil
}
