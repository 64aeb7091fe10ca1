// Package units reads and writes the quantities that people type and see:
// sizes, counts, rates, durations and CPU lists. It knows nothing of ublk.
package units

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
)

// prefixes are the unit letters in order: the n-th stands for 1024ⁿ⁺¹ (or 1000ⁿ⁺¹).
const prefixes = "KMGTPE"

// ParseSize reads a number of bytes the way util-linux does: a plain number is
// bytes, K and KiB are 1024, KB is 1000, and so on up to E, in either case. A
// fraction needs a unit, and what is left below one byte is cut off (1.3K is
// 1331). Signs, spaces, exponents and hexadecimal are refused.
func ParseSize(s string) (uint64, error) {
	number, unit := cutNumber(s)
	whole, fraction, hasPoint := strings.Cut(number, ".")
	switch {
	case s == "":
		return 0, fmt.Errorf("empty size")
	case strings.HasPrefix(s, "-"):
		return 0, fmt.Errorf("size %q is negative", s)
	case whole == "" || hasPoint && fraction == "" || strings.Contains(fraction, "."):
		return 0, fmt.Errorf("size %q is not a number with an optional unit (K, M, G, T, P, E)", s)
	}
	factor, err := unitFactor(unit)
	if err != nil {
		return 0, fmt.Errorf("size %q: %w", s, err)
	}
	if hasPoint && factor == 1 {
		return 0, fmt.Errorf("size %q is a fraction of a byte; add a unit (K, M, G, T, P, E)", s)
	}
	n, err := strconv.ParseUint(whole, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("size %q is too large", s)
	}
	high, low := bits.Mul64(n, factor)
	total, carry := bits.Add64(low, fractionOf(fraction, factor), 0)
	if high != 0 || carry != 0 {
		return 0, fmt.Errorf("size %q is too large", s)
	}
	return total, nil
}

// cutNumber splits s after its leading digits and points.
func cutNumber(s string) (number, unit string) {
	end := strings.IndexFunc(s, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
	if end < 0 {
		return s, ""
	}
	return s[:end], s[end:]
}

// unitFactor returns the number of bytes in one unit ("" is one byte).
func unitFactor(unit string) (uint64, error) {
	if unit == "" {
		return 1, nil
	}
	base := uint64(1024)
	upper := strings.ToUpper(unit)
	switch upper[1:] {
	case "", "IB":
	case "B":
		base = 1000
	default:
		return 0, fmt.Errorf("unknown unit %q (K, M, G, T, P, E; KiB is 1024, KB is 1000)", unit)
	}
	power := strings.IndexByte(prefixes, upper[0])
	if power < 0 {
		return 0, fmt.Errorf("unknown unit %q (K, M, G, T, P, E; KiB is 1024, KB is 1000)", unit)
	}
	factor := base
	for range power {
		factor *= base
	}
	return factor, nil
}

// fractionOf returns the whole bytes in 0.digits units of factor bytes. Digits
// past the 18th are below one byte in every unit and are ignored.
func fractionOf(digits string, factor uint64) uint64 {
	numerator, denominator := uint64(0), uint64(1)
	for _, digit := range digits[:min(len(digits), 18)] {
		numerator = numerator*10 + uint64(digit-'0')
		denominator *= 10
	}
	high, low := bits.Mul64(numerator, factor)
	quotient, _ := bits.Div64(high, low, denominator)
	return quotient
}

// FormatSize prints bytes as lsblk does: the largest binary unit that leaves at
// least one, one decimal where it is not zero: 512B, 1K, 1.5G, 931.5G.
func FormatSize(bytes uint64) string {
	power := max(bits.Len64(bytes)-1, 0) / 10
	if power == 0 {
		return strconv.FormatUint(bytes, 10) + "B"
	}
	shift := 10 * power
	whole := bytes >> shift
	high, low := bits.Mul64(bytes&(1<<shift-1), 1000)
	permille, _ := bits.Div64(high, low, 1<<shift)
	// Rounded from three decimals, not from the exact value: so does util-linux.
	tenths := (permille + 50) / 100
	if tenths == 10 {
		whole, tenths = whole+1, 0
	}
	text := strconv.FormatUint(whole, 10)
	if tenths > 0 {
		text += "." + strconv.FormatUint(tenths, 10)
	}
	return text + prefixes[power-1:power]
}
