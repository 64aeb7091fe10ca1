package fault

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ublk/internal/units"
	"ublk/server"
)

// MaxDelay is the longest delay: what waits longer is called stuck.
const MaxDelay = time.Minute

// Setting is a fault that can be set, and changed while the disk is in use.
type Setting struct {
	Name  string
	Usage string // with the name of the value in backquotes
	parse func(*plan, string) error
}

// Settings lists the settings.
func Settings() []Setting {
	return []Setting{
		{"delay", "delay requests by `TIME`: 5ms, 1ms-10ms, or p50=1ms,p99=50ms; with :OP and :SECTORS, as in 5ms:write:0-2047", parseDelay},
		{"error-rate", "fail a `SHARE` of requests, with :OP, :ERRNO (default EIO) and :SECTORS, as in 1% or 0.1:read+write:ENOSPC:2048-4095; several with commas", parseErrors},
		{"short-reads", "`SHARE` of the backend's reads that end early", func(p *plan, s string) (err error) { p.shortReads, err = parseShare(s); return err }},
		{"short-writes", "`SHARE` of the backend's writes that end early", func(p *plan, s string) (err error) { p.shortWrites, err = parseShare(s); return err }},
		{"stuck", "never answer a `SHARE` of requests, with :OP and :SECTORS as for error-rate", parseStuck},
		{"torn", "what a kill leaves half done: the `SHARE` of writes that stop half-way and wait; with a volatile cache, of its blocks that reach the disk without a flush", func(p *plan, s string) (err error) { p.torn, err = parseShare(s); return err }},
	}
}

// Check says what is wrong with the value of a setting.
func (s Setting) Check(value string) error { return s.parse(&plan{}, value) }

// plan is settings, ready for use. It does not change.
type plan struct {
	texts  map[string]string // as they were given
	delay  *delay
	errors []rule
	stuck  []rule

	shortReads, shortWrites, torn float64
}

// compile reads settings by name; empty ones are left out.
func compile(texts map[string]string) (*plan, error) {
	p := &plan{texts: maps.Clone(texts)}
	maps.DeleteFunc(p.texts, func(_, text string) bool { return text == "" })
	all := Settings()
	for _, name := range slices.Sorted(maps.Keys(p.texts)) {
		i := slices.IndexFunc(all, func(s Setting) bool { return s.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no setting %q", name)
		}
		if err := all[i].parse(p, p.texts[name]); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return p, nil
}

// rule is a share of some requests.
type rule struct {
	share       float64
	ops         uint32 // bit by operation; 0: all
	first, last int64  // sectors
	ranged      bool
	errno       unix.Errno
}

// covers says whether a request is one of those of the rule. What has no place,
// a flush, is in no range.
func (r *rule) covers(op server.Op, off int64, n int) bool {
	if r.ops != 0 && r.ops&(1<<op) == 0 {
		return false
	}
	return !r.ranged || n > 0 && off>>9 <= r.last && (off+int64(n)-1)>>9 >= r.first
}

// delay is how long a rule's requests wait: the step of the highest percentile
// that a number does not reach.
type delay struct {
	rule
	steps []step // by ascending from
}

type step struct {
	from        float64 // 0 to 1
	least, most time.Duration
}

// of is the delay for two numbers from 0 to 1; 0 is none.
func (d *delay) of(which, spread float64) time.Duration {
	for _, s := range slices.Backward(d.steps) {
		if which >= s.from {
			return s.least + time.Duration(spread*float64(s.most-s.least))
		}
	}
	return 0
}

func parseDelay(p *plan, text string) error {
	value, rest, limited := strings.Cut(text, ":")
	d := &delay{rule: rule{share: 1}}
	for part := range strings.SplitSeq(value, ",") {
		var s step
		var err error
		percentile, times, isPercentile := strings.Cut(part, "=")
		switch {
		case !isPercentile && strings.Contains(value, ","):
			err = fmt.Errorf("%q is no percentile, such as p99=50ms", part)
		case isPercentile:
			s.from, err = parsePercentile(percentile)
		default:
			times = part
		}
		if err == nil {
			s.least, s.most, err = parseTimes(times)
		}
		if err != nil {
			return err
		}
		if n := len(d.steps); n > 0 && d.steps[n-1].from >= s.from {
			return fmt.Errorf("%q: percentiles ascend", part)
		}
		d.steps = append(d.steps, s)
	}
	p.delay = d
	if limited {
		if err := d.restrict(rest); err != nil {
			return err
		}
	}
	if d.errno != 0 {
		return errors.New("a delay has no errno")
	}
	return nil
}

// parsePercentile reads p99.9: the slowest 0.1 %.
func parsePercentile(text string) (float64, error) {
	digits, ok := strings.CutPrefix(text, "p")
	n, err := strconv.ParseFloat(digits, 64)
	if !ok || err != nil || !(n >= 0 && n < 100) {
		return 0, fmt.Errorf("%q is no percentile, such as p99", text)
	}
	return n / 100, nil
}

// parseTimes reads 5ms or 1ms-10ms.
func parseTimes(text string) (least, most time.Duration, err error) {
	low, high, isRange := strings.Cut(text, "-")
	if !isRange {
		high = low
	}
	if least, err = units.ParseDuration(low); err != nil {
		return 0, 0, err
	}
	if most, err = units.ParseDuration(high); err != nil {
		return 0, 0, err
	}
	if least > most || most > MaxDelay {
		return 0, 0, fmt.Errorf("delay %q: ascending, and at most %v", text, MaxDelay)
	}
	return least, most, nil
}

func parseErrors(p *plan, text string) (err error) {
	p.errors, err = parseRules(text)
	for i := range p.errors {
		if p.errors[i].errno == 0 {
			p.errors[i].errno = unix.EIO
		}
	}
	return err
}

func parseStuck(p *plan, text string) (err error) {
	p.stuck, err = parseRules(text)
	for _, r := range p.stuck {
		if r.errno != 0 {
			return errors.New("a stuck request has no errno")
		}
	}
	return err
}

func parseRules(text string) ([]rule, error) {
	var rules []rule
	for part := range strings.SplitSeq(text, ",") {
		share, rest, limited := strings.Cut(part, ":")
		var r rule
		var err error
		if r.share, err = parseShare(share); err == nil && limited {
			err = r.restrict(rest)
		}
		if err != nil {
			return nil, err
		}
		rules = append(rules, r)
	}
	return rules, nil
}

// parseShare reads 0.01 or 1%.
func parseShare(text string) (float64, error) {
	digits, percent := strings.CutSuffix(text, "%")
	n, err := strconv.ParseFloat(digits, 64)
	if percent {
		n /= 100
	}
	if err != nil || math.IsNaN(n) || n < 0 || n > 1 {
		return 0, fmt.Errorf("%q is no share, such as 1%% or 0.01", text)
	}
	return n, nil
}

// restrict reads what a rule is limited to, in any order: operations, sectors,
// an errno.
func (r *rule) restrict(text string) error {
	for word := range strings.SplitSeq(text, ":") {
		if errno := errnoNamed(word); errno != 0 {
			r.errno = errno
		} else if strings.Trim(word, "0123456789-") == "" && word != "" {
			if err := r.restrictSectors(word); err != nil {
				return err
			}
		} else if err := r.restrictOps(word); err != nil {
			return err
		}
	}
	return nil
}

func (r *rule) restrictSectors(text string) (err error) {
	low, high, isRange := strings.Cut(text, "-")
	if !isRange {
		high = low
	}
	r.ranged = true
	if r.first, err = strconv.ParseInt(low, 10, 54); err == nil {
		r.last, err = strconv.ParseInt(high, 10, 54)
	}
	if err != nil || r.first > r.last {
		return fmt.Errorf("%q is no range of sectors, such as 2048-4095", text)
	}
	return nil
}

func (r *rule) restrictOps(text string) error {
	for name := range strings.SplitSeq(text, "+") {
		op := server.OpRead
		for ; op <= server.OpWriteZeroes && op.String() != name; op++ {
		}
		if op > server.OpWriteZeroes {
			return fmt.Errorf("%q is no operation (read, write, flush, discard, write-zeroes), errno or range of sectors", name)
		}
		r.ops |= 1 << op
	}
	return nil
}

// errnoNamed is the errno with a name such as EIO, 0 if there is none.
func errnoNamed(name string) unix.Errno {
	for e := unix.Errno(1); e < 134; e++ {
		if name != "" && name == unix.ErrnoName(e) {
			return e
		}
	}
	return 0
}
