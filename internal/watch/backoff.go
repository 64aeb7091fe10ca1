package watch

import "time"

// How a server that crashes again and again is told from one that was unlucky,
// and how long it is left alone.
const (
	stable   = time.Minute // a server that lived so long ends a series of crashes
	firstLag = time.Second // of the back-off; it doubles with every crash
	longest  = time.Minute
)

// series counts the crashes of a device that follow each other.
type series struct {
	burst   int       // so many are taken without any delay
	crashes int       // in the series
	fails   int       // attempts in a row that did not make the device LIVE
	since   time.Time // when the series began; zero without one
	live    time.Time // when the device became LIVE last
}

// crashed counts a server's death.
func (s *series) crashed(now time.Time) {
	if s.since.IsZero() || !s.live.IsZero() && now.Sub(s.live) >= stable {
		s.since, s.crashes = now, 0
	}
	s.crashes++
	s.fails = 0
}

// failed counts an attempt to recover that did not.
func (s *series) failed() { s.fails++ }

// recovered ends the attempts, not yet the series.
func (s *series) recovered(now time.Time) { s.live, s.fails = now, 0 }

// looping says whether the crashes are more than bad luck.
func (s *series) looping() bool { return s.crashes > s.burst }

// lag is how long to wait before the next attempt.
func (s *series) lag() time.Duration {
	n := max(s.crashes-s.burst, s.fails)
	if n <= 0 {
		return 0
	}
	return min(firstLag<<min(n-1, 10), longest)
}

// hopeless says that a device has been without a server that stays for so long
// that its users should rather get errors. after 0 is never.
func (s *series) hopeless(now time.Time, after time.Duration) bool {
	return after > 0 && (s.looping() || s.fails > 0) && now.Sub(s.since) >= after
}
