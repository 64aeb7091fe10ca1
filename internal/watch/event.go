package watch

import (
	"fmt"
	"strings"
	"time"

	"ublk/internal/units"
)

// Kind is what an Event tells.
type Kind string

// The kinds of events.
const (
	Ready     Kind = "ready"     // of the watch: all devices are looked after
	Watching  Kind = "watching"  // a device came, or has a server that this watch did not start
	Died      Kind = "died"      // a server did, and its device waits for another
	Left      Kind = "left"      // a server did, as it was asked to, and its device waits for another
	Lost      Kind = "lost"      // a server died, and its device had no recovery
	Ended     Kind = "ended"     // a device was stopped
	Gone      Kind = "gone"      // a device was deleted
	Recovered Kind = "recovered" // a device is LIVE again
	Failed    Kind = "failed"    // an attempt at that
	BackOff   Kind = "back-off"  // a device crashes again and again
	Locked    Kind = "locked"    // somebody else is at work on a device
	Held      Kind = "held"      // a device is left as it is
	Stopped   Kind = "stopped"   // a device was stopped by this watch: its I/O fails now
	Deleted   Kind = "deleted"   // and deleted
	Hung      Kind = "hung"      // no request completes
	Killed    Kind = "killed"    // a hung server was
	Trouble   Kind = "trouble"   // of the watch itself
)

// Event is something that happened to a device or to the watch. What is unknown
// is left out; fields are only ever added.
type Event struct {
	Time  time.Time `json:"time"`
	Kind  Kind      `json:"event"`
	ID    int       `json:"id"` // -1 for the watch itself
	Name  string    `json:"name,omitempty"`
	State string    `json:"state,omitempty"` // of the device

	PID      int    `json:"pid,omitempty"`     // of the server that this is about
	OldPID   int    `json:"old_pid,omitempty"` // of the one before
	How      string `json:"how,omitempty"`     // a server ended
	InFlight *int   `json:"in_flight,omitempty"`
	Panic    string `json:"panic,omitempty"` // its first line

	Noticed  *time.Time `json:"noticed,omitempty"`  // that the server had died
	Quiesced *time.Time `json:"quiesced,omitempty"` // START_USER_RECOVERY was accepted
	Live     *time.Time `json:"live,omitempty"`     // END_USER_RECOVERY returned
	Kernel   float64    `json:"kernel_ms,omitempty"`
	Ours     float64    `json:"ours_ms,omitempty"`

	Crashes int     `json:"crashes,omitempty"` // in a row
	Retry   float64 `json:"retry_s,omitempty"` // until the next attempt
	Text    string  `json:"text,omitempty"`    // an error, or who holds what
}

// String is the event as one line for people.
func (e Event) String() string {
	var b strings.Builder
	b.WriteString(e.Time.Format("2006-01-02 15:04:05.000 "))
	if e.ID >= 0 {
		fmt.Fprintf(&b, "device %d", e.ID)
		if e.Name != "" {
			fmt.Fprintf(&b, " (%s)", e.Name)
		}
		b.WriteString(": ")
	}
	b.WriteString(e.words())
	return strings.ReplaceAll(b.String(), "\n", "; ")
}

func (e *Event) words() string {
	switch e.Kind {
	case Watching:
		if e.PID == 0 {
			return "watching; " + e.State
		}
		return fmt.Sprintf("watching server %d", e.PID)
	case Died, Lost:
		return e.death()
	case Left:
		return fmt.Sprintf("server %d has left, as it was asked to; %s", e.PID, e.State)
	case Ended:
		return with(fmt.Sprintf("stopped; server %d has ended", e.PID), e.How)
	case Gone:
		return "deleted"
	case Recovered:
		return e.recovery()
	case Failed:
		return with(fmt.Sprintf("not recovered, next attempt in %gs", e.Retry), e.Text)
	case BackOff:
		return fmt.Sprintf("crashed %d times in a row; next attempt in %gs", e.Crashes, e.Retry)
	case Stopped:
		return with("stopped, its I/O fails now", e.Text)
	case Killed:
		return with(fmt.Sprintf("server %d killed", e.PID), e.Text)
	}
	return with(string(e.Kind), e.Text)
}

func (e *Event) death() string {
	s := "its server died"
	if e.PID != 0 {
		s = fmt.Sprintf("server %d died", e.PID)
	}
	if e.How != "" {
		s += " (" + e.How + ")"
	}
	if e.InFlight != nil {
		s += ", " + units.Counted(*e.InFlight, "request") + " in flight"
	}
	if e.Kind == Lost {
		s += "; there is no recovery, the disk is gone"
	} else if e.State != "" {
		s += "; " + e.State
	}
	return with(s, e.Panic)
}

func (e *Event) recovery() string {
	s := "LIVE again"
	if e.PID != 0 {
		s += fmt.Sprintf(", server %d", e.PID)
	}
	if e.Live != nil && e.Noticed != nil {
		s += fmt.Sprintf(", after %.1f ms", milliseconds(e.Live.Sub(*e.Noticed)))
	}
	if e.Kernel != 0 {
		s += fmt.Sprintf(" (the kernel's %.1f, ours %.1f)", e.Kernel, e.Ours)
	}
	return with(s, e.Text)
}

func with(s, more string) string {
	if more == "" {
		return s
	}
	return s + ": " + more
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
