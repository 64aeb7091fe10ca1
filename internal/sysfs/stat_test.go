package sysfs

import (
	"maps"
	"strings"
	"testing"
)

const statText = "       5        1      40        7        2        3      16        9        7     1044       30        4        5        6        8        1        2\n"

func TestParseStat(t *testing.T) {
	full := Stat{
		Read: Counts{5, 1, 40, 7}, Write: Counts{2, 3, 16, 9}, InFlight: 7, BusyMillis: 1044, WeightedMillis: 30,
		Discard: Counts{4, 5, 6, 8}, FlushOps: 1, FlushMillis: 2,
	}
	noFlush := full
	noFlush.FlushOps, noFlush.FlushMillis = 0, 0
	noDiscard := noFlush
	noDiscard.Discard = Counts{}
	columns := strings.Fields(statText)
	for count, want := range map[int]Stat{11: noDiscard, 15: noFlush, 17: full} {
		if got, err := parseStat(strings.Join(columns[:count], " ")); err != nil || got != want {
			t.Errorf("%d columns: got %+v, %v; want %+v", count, got, err, want)
		}
	}
	if got, err := parseStat(statText + " 99 98"); err != nil || got != full {
		t.Errorf("19 columns: got %+v, %v", got, err)
	}
	for _, bad := range []string{"", "1 2 3", strings.Replace(statText, "1044", "-1", 1), strings.Replace(statText, "1044", "x", 1)} {
		if got, err := parseStat(bad); err == nil {
			t.Errorf("parseStat(%q) = %+v", bad, got)
		}
	}
	if got := full.Done(); got != 5+2+4+1 {
		t.Errorf("%d requests done", got)
	}
}

func TestStatSinceWraps(t *testing.T) {
	earlier, _ := parseStat("10 0 80 4294967290 1 0 8 0 3 4294967295 4294967000 0 0 0 0 0 0")
	later, _ := parseStat("15 0 120 4 1 0 8 0 2 99 200 0 0 0 0 2 1")
	got := later.Since(earlier)
	want := Stat{Read: Counts{5, 0, 40, 10}, InFlight: 2, BusyMillis: 100, WeightedMillis: 496, FlushOps: 2, FlushMillis: 1}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestParseInflight(t *testing.T) {
	if got, err := parseInflight("       5        2\n"); err != nil || got != (Inflight{5, 2}) || got.Total() != 7 {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{"", "5", "5 2 1", "5 x", "-1 0"} {
		if got, err := parseInflight(bad); err == nil {
			t.Errorf("parseInflight(%q) = %v", bad, got)
		}
	}
}

func TestParseDiskStats(t *testing.T) {
	text := " 259       3 ublkb3 " + statText + " 259 4 ublkb3p1 " + statText + "   7       0 loop0 0\n 8 0 sda " + statText + "\n 259 5 ublkb12 " + statText
	got, err := parseDiskStats(text)
	want, _ := parseStat(statText)
	if err != nil || !maps.Equal(got, map[int]Stat{3: want, 12: want}) {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := parseDiskStats("259 3 ublkb3 1 2"); err == nil || !strings.Contains(err.Error(), "ublkb3") {
		t.Errorf("a short line: %v", err)
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add(statText)
	f.Add(" 259 3 ublkb3 " + statText)
	f.Add("5 2")
	f.Fuzz(func(t *testing.T, text string) {
		if stat, err := parseStat(text); err == nil && stat.Since(stat) != (Stat{InFlight: stat.InFlight}) {
			t.Fatalf("%+v differs from itself", stat)
		}
		_, _ = parseInflight(text)
		if stats, err := parseDiskStats(text); err == nil && len(stats) > strings.Count(text, "\n")+1 {
			t.Fatalf("%d disks in %q", len(stats), text)
		}
	})
}
