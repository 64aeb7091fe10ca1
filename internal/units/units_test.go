package units

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestCounted(t *testing.T) {
	for n, want := range map[int]string{0: "0 devices", 1: "1 device", 2: "2 devices"} {
		if got := Counted(n, "device"); got != want {
			t.Errorf("%d: %q", n, got)
		}
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]uint64{
		"0": 0, "1": 1, "512": 512, "010": 10,
		"1K": 1024, "1k": 1024, "1KiB": 1024, "1kib": 1024, "1KB": 1000, "1kb": 1000,
		"1M": 1 << 20, "1MB": 1e6, "1G": 1 << 30, "2T": 2 << 40, "3P": 3 << 50, "1E": 1 << 60, "1EB": 1e18,
		"1.5G": 3 << 29, "0.5K": 512, "1.3K": 1331, "1.5KB": 1500, "1.0M": 1 << 20,
		"0.99999999999999999999K": 1023, "15.999E": 18445591152204944769,
		"18446744073709551615": math.MaxUint64,
	} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
}

func TestParseSizeErrors(t *testing.T) {
	for text, want := range map[string]string{
		"":                     "empty size",
		"-1":                   "negative",
		"-1G":                  "negative",
		"+1":                   "not a number",
		" 1":                   "not a number",
		"1 ":                   "unknown unit",
		"G":                    "not a number",
		".5G":                  "not a number",
		"1.G":                  "not a number",
		"1.2.3G":               "not a number",
		"1.5":                  "fraction of a byte",
		"1X":                   "unknown unit",
		"1B":                   "unknown unit",
		"1Ki":                  "unknown unit",
		"1KiBs":                "unknown unit",
		"1é":                   "unknown unit",
		"0x10":                 "unknown unit",
		"1e3":                  "unknown unit",
		"16E":                  "too large",
		"18446744073709551616": "too large",
		"99999999999999999999": "too large",
	} {
		if got, err := ParseSize(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseSize(%q) = %d, %v; want an error with %q", text, got, err, want)
		}
	}
}

func TestFormatSize(t *testing.T) {
	for bytes, want := range map[uint64]string{
		0: "0B", 1: "1B", 1023: "1023B", 1024: "1K", 1536: "1.5K", 1100: "1.1K", 1025: "1K",
		3 << 29: "1.5G", 250 << 30: "250G", 1000204886016: "931.5G", 1<<20 - 1: "1024K",
		1 << 60: "1E", math.MaxUint64: "16E",
	} {
		if got := FormatSize(bytes); got != want {
			t.Errorf("FormatSize(%d) = %q, want %q", bytes, got, want)
		}
	}
}

func TestFormatCountAndRate(t *testing.T) {
	for _, test := range []struct {
		n           float64
		count, rate string
	}{
		{0, "0", "0"}, {0.3, "0.3", "0.3"}, {0.04, "0", "0"}, {8, "8", "8"}, {9.96, "10", "10"}, {512, "512", "512"},
		{999.4, "999", "999"}, {999.6, "1k", "1000"}, {1000, "1k", "1000"}, {1024, "1k", "1K"},
		{1100, "1.1k", "1.1K"}, {182_000, "182k", "178K"}, {999_999, "1M", "977K"}, {1_100_000, "1.1M", "1M"},
		{711 << 20, "746M", "711M"}, {4.3 * (1 << 30), "4.6G", "4.3G"},
		{-1, "-", "-"}, {math.NaN(), "-", "-"}, {math.Inf(1), ">99E", ">99E"}, {1e300, ">99E", ">99E"},
	} {
		if got := FormatCount(test.n); got != test.count {
			t.Errorf("FormatCount(%v) = %q, want %q", test.n, got, test.count)
		}
		if got := FormatRate(test.n); got != test.rate {
			t.Errorf("FormatRate(%v) = %q, want %q", test.n, got, test.rate)
		}
	}
}

func TestFormatLatency(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-1: "-", 0: "0", 640: "640n", 999: "999n", 1000: "1µ", 84_000: "84µ", 310_499: "310µ", 999_600: "1m",
		5_200_000: "5.2m", 1_200_000_000: "1.2s", 8 * time.Second: "8s", 8100 * time.Millisecond: "8.1s",
		310 * time.Second: "310s",
	} {
		if got := FormatLatency(d); got != want {
			t.Errorf("FormatLatency(%d) = %q, want %q", d, got, want)
		}
	}
}

func TestFormatAge(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-1: "-", 0: "0s", 8900 * time.Millisecond: "8s", 60 * time.Second: "1m00s", 252 * time.Second: "4m12s",
		185 * time.Minute: "3h05m", 52 * time.Hour: "2d04h",
	} {
		if got := FormatAge(d); got != want {
			t.Errorf("FormatAge(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "2": 2 * time.Second, "0.5": 500 * time.Millisecond, "500ms": 500 * time.Millisecond, "1h30m": 90 * time.Minute,
	} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("ParseDuration(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"": "not a number", "-1s": "negative", "-1": "negative", "1d": "use hours", "x": "not a number", "1e9": "not a number",
		"99999999999999": "not a number",
	} {
		if got, err := ParseDuration(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseDuration(%q) = %v, %v; want an error with %q", text, got, err, want)
		}
	}
}

func TestParseCPUs(t *testing.T) {
	for text, want := range map[string][]int{
		"0": {0}, "0-3,8": {0, 1, 2, 3, 8}, "3,1,2,1": {1, 2, 3}, "0, 2, 4": {0, 2, 4}, "8191": {8191}, "0-1\n": {0, 1},
	} {
		if got, err := ParseCPUs(text); err != nil || !slices.Equal(got, want) {
			t.Errorf("ParseCPUs(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"": "not a CPU number", "a": "not a CPU number", "1,": "not a CPU number", "-1": "not a CPU number",
		"3-1": "backwards", "8192": "beyond", "0-99999999": "beyond", "1-2-3": "not a CPU number",
	} {
		if got, err := ParseCPUs(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseCPUs(%q) = %v, %v; want an error with %q", text, got, err, want)
		}
	}
}

func TestFormatCPUs(t *testing.T) {
	unsorted := []int{8, 3, 1, 2, 0, 2}
	if got := FormatCPUs(unsorted); got != "0-3,8" {
		t.Errorf("FormatCPUs = %q, want 0-3,8", got)
	}
	if unsorted[0] != 8 {
		t.Error("FormatCPUs changed its argument")
	}
	if got := FormatCPUs(nil); got != "" {
		t.Errorf("FormatCPUs(nil) = %q", got)
	}
}

func FuzzParseSize(f *testing.F) {
	for _, seed := range []string{"", "1.5G", "16E", "15.99999999999999999999EiB", "1KB", "-1", "1..2K"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		size, err := ParseSize(text)
		if err != nil {
			return
		}
		// What is printed is read back, within the rounding to a twentieth of a unit.
		back, err := ParseSize(strings.TrimSuffix(FormatSize(size), "B"))
		if err != nil {
			if size > 15<<60 { // 15.96E and more round up to 16E, which is beyond 64 bits
				return
			}
			t.Fatalf("ParseSize(FormatSize(%d)): %v", size, err)
		}
		if difference := math.Abs(float64(back) - float64(size)); difference > float64(size)*0.051 {
			t.Fatalf("%q is %d, printed as %s", text, size, FormatSize(size))
		}
	})
}

func FuzzParseCPUs(f *testing.F) {
	for _, seed := range []string{"", "0-3,8", "0, 2, 4", "3-1", "0-8191,0-8191"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		cpus, err := ParseCPUs(text)
		if err != nil {
			return
		}
		back, err := ParseCPUs(FormatCPUs(cpus))
		if err != nil || !slices.Equal(back, cpus) {
			t.Fatalf("%q is %v, but %q is %v, %v", text, cpus, FormatCPUs(cpus), back, err)
		}
	})
}

func FuzzParseDuration(f *testing.F) {
	for _, seed := range []string{"", "2", "0.5", "1h30m", "-1", "1d", ".", "1.s"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if d, err := ParseDuration(text); err == nil && d < 0 {
			t.Fatalf("ParseDuration(%q) = %v", text, d)
		}
	})
}
