package fault

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublk/server"
)

func TestDelay(t *testing.T) {
	for _, tt := range []struct {
		text          string
		which, spread float64
		want          time.Duration
	}{
		{"5ms", 0, 0, 5 * time.Millisecond},
		{"5ms", 0.999, 0.999, 5 * time.Millisecond},
		{"1ms-10ms", 0.3, 0, time.Millisecond},
		{"1ms-10ms", 0.3, 0.5, 5500 * time.Microsecond},
		{"p99=50ms", 0.98, 0.5, 0},
		{"p99=50ms", 0.99, 0.5, 50 * time.Millisecond},
		{"p50=1ms,p99=50ms-60ms", 0.2, 0, 0},
		{"p50=1ms,p99=50ms-60ms", 0.7, 0, time.Millisecond},
		{"p50=1ms,p99=50ms-60ms", 0.999, 0.5, 55 * time.Millisecond},
		{"0.5:write", 0, 0, 500 * time.Millisecond},
	} {
		p, err := compile(map[string]string{"delay": tt.text})
		if err != nil {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		if got := p.delay.of(tt.which, tt.spread); got != tt.want {
			t.Errorf("%s at %v, %v: %v, want %v", tt.text, tt.which, tt.spread, got, tt.want)
		}
	}
}

func TestRules(t *testing.T) {
	type request struct {
		op     server.Op
		sector int64
		n      int
	}
	for _, tt := range []struct {
		text  string
		r     request
		errno unix.Errno // 0: not covered
	}{
		{"1", request{server.OpRead, 0, 4096}, unix.EIO},
		{"100%:write", request{server.OpRead, 0, 4096}, 0},
		{"100%:write:ENOSPC", request{server.OpWrite, 0, 4096}, unix.ENOSPC},
		{"1:ENOSPC:read+flush", request{server.OpFlush, 0, 0}, unix.ENOSPC},
		{"1:8-15", request{server.OpRead, 0, 4096}, 0},
		{"1:8-15", request{server.OpRead, 0, 4608}, unix.EIO},
		{"1:8-15", request{server.OpRead, 15, 512}, unix.EIO},
		{"1:8-15", request{server.OpRead, 16, 512}, 0},
		{"1:8-15", request{server.OpFlush, 8, 0}, 0},
		{"1:8", request{server.OpDiscard, 8, 512}, unix.EIO},
		{"0:read,1:read:ENODATA", request{server.OpRead, 8, 512}, unix.ENODATA},
		{"0", request{server.OpRead, 8, 512}, 0},
	} {
		p, err := compile(map[string]string{"error-rate": tt.text})
		if err != nil {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		var got unix.Errno
		if r := hit(p.errors, 0.5, tt.r.op, tt.r.sector*512, tt.r.n); r != nil {
			got = r.errno
		}
		if got != tt.errno {
			t.Errorf("%s on %+v: %v, want %v", tt.text, tt.r, got, tt.errno)
		}
	}
}

func TestRefused(t *testing.T) {
	for name, texts := range map[string]string{
		"delay":       "x|5|-1ms|10ms-1ms|2m|p99|p100=1ms|p99=1ms,p50=2ms|5ms,6ms|5ms:EIO|5ms:|=1ms|5ms:trim|,",
		"error-rate":  "x|2|-1|101%|NaN|1:EXX|1:9-8|1:-8|1:8-|1:99999999999999999999|1:read+|1:|,|1,",
		"stuck":       "x|1:EIO",
		"short-reads": "x|1:read|1.1", "short-writes": "x",
		"torn":     "half",
		"nonsense": "1",
	} {
		for text := range strings.SplitSeq(texts, "|") {
			if p, err := compile(map[string]string{name: text}); err == nil && text != "5" {
				t.Errorf("%s %q was accepted: %+v", name, text, p)
			}
		}
	}
	if p, err := compile(map[string]string{"delay": ""}); err != nil || p.delay != nil || len(p.texts) != 0 {
		t.Errorf("an empty setting: %+v, %v", p, err)
	}
}

// TestShares is that rules hit as often as they say, one after the other.
func TestShares(t *testing.T) {
	p, err := compile(map[string]string{"error-rate": "10%:read:EIO,20%:ENOSPC"})
	if err != nil {
		t.Fatal(err)
	}
	const n = 100000
	counts := map[unix.Errno]int{}
	for i := range uint64(n) {
		if r := hit(p.errors, chance(7).at(i, forError), server.OpRead, 0, 512); r != nil {
			counts[r.errno]++
		}
	}
	for errno, want := range map[unix.Errno]float64{unix.EIO: 0.1, unix.ENOSPC: 0.9 * 0.2} {
		if got := float64(counts[errno]) / n; got < want*0.95 || got > want*1.05 {
			t.Errorf("%v: %v of the requests, want %v", errno, got, want)
		}
	}
}

// TestChance is that fate depends on seed, queue and count, and not on what
// else is decided.
func TestChance(t *testing.T) {
	draw := func(c chance, purpose int) (all [8]uint64) {
		for i := range all {
			all[i] = c.bits(uint64(i), purpose)
		}
		return all
	}
	base := draw(chance(1).of(0), forError)
	if again := draw(chance(1).of(0), forError); again != base {
		t.Errorf("the same seed gives %v and %v", base, again)
	}
	for name, other := range map[string][8]uint64{
		"seed": draw(chance(2).of(0), forError), "queue": draw(chance(1).of(1), forError), "purpose": draw(chance(1).of(0), forStuck),
	} {
		if other == base {
			t.Errorf("another %s makes no difference", name)
		}
	}
	// The same for good: people write seeds down.
	if got := chance(1).of(0).bits(0, forStuck); got != 0x3f25ce23ba168cbc {
		t.Errorf("the first number of seed 1 is %#x", got)
	}
}

func FuzzSettings(f *testing.F) {
	for _, seed := range []string{"5ms", "1ms-10ms:read:0-7", "p50=1ms,p99=50ms", "1%:read+write:ENOSPC:2048-4095,0.5", "100%", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, s := range Settings() {
			p, err := compile(map[string]string{s.Name: text})
			if err != nil || text == "" {
				continue
			}
			if s.Check(text) != nil {
				t.Errorf("%s %q: compiled, and refused by Check", s.Name, text)
			}
			for _, r := range append(p.errors, p.stuck...) {
				if !(r.share >= 0 && r.share <= 1) || r.first > r.last {
					t.Errorf("%s %q: %+v", s.Name, text, r)
				}
			}
			if p.delay == nil {
				continue
			}
			for _, n := range []float64{0, 0.5, 0.999999} {
				if d := p.delay.of(n, n); d < 0 || d > MaxDelay {
					t.Errorf("%s %q: delay %v", s.Name, text, d)
				}
			}
		}
	})
}

// TestDecisionsAllocateNothing is for the path of every request.
func TestDecisionsAllocateNothing(t *testing.T) {
	p, err := compile(map[string]string{"delay": "p50=1ms,p99=2ms", "error-rate": "1%:read,1%:write", "stuck": "0:flush"})
	if err != nil {
		t.Fatal(err)
	}
	h := &handler{chance: 1}
	if allocs := testing.AllocsPerRun(1000, func() {
		h.meets(p.stuck, forStuck, server.OpRead, 0, 4096)
		h.meets(p.errors, forError, server.OpRead, 0, 4096)
		h.delay(p.delay, server.OpRead, 0, 4096)
	}); allocs != 0 {
		t.Errorf("%v allocations a request", allocs)
	}
	if h.counts[forStuck] != 0 || h.counts[forError] == 0 || h.counts[forDelay] != h.counts[forError] {
		t.Errorf("numbers drawn: %v; a rule for flushes is none for reads", h.counts)
	}
}
