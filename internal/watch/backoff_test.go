package watch

import (
	"testing"
	"time"
)

func TestSeries(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s := series{burst: 3}
	now := begin
	var lags []time.Duration
	for range 12 { // a server that dies as soon as it serves
		s.crashed(now)
		lags = append(lags, s.lag())
		now = now.Add(s.lag())
		s.recovered(now)
	}
	want := []time.Duration{0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60}
	for i, lag := range lags {
		if lag != want[i]*time.Second {
			t.Errorf("after crash %d: %v, want %v s", i+1, lag, want[i])
		}
	}
	if !s.looping() || !s.hopeless(begin.Add(5*time.Minute), 5*time.Minute) || s.hopeless(begin.Add(5*time.Minute), 0) {
		t.Error("a series that lasts is not hopeless, or is though nobody ever gives up")
	}
	now = now.Add(stable)
	s.crashed(now)
	if s.lag() != 0 || s.looping() || s.hopeless(now.Add(time.Hour), time.Minute) {
		t.Errorf("a server that lived for %v does not end the series", stable)
	}
	s.failed()
	s.failed()
	if s.lag() != 2*time.Second || !s.hopeless(now.Add(time.Minute), time.Minute) {
		t.Errorf("two failed attempts: lag %v", s.lag())
	}
	s.recovered(now)
	if s.lag() != 0 {
		t.Error("a success does not end the failures")
	}
}
