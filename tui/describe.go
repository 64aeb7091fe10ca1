package tui

import (
	"fmt"
	"strings"
	"time"

	"ublk/internal/table"
	"ublk/internal/units"
)

// Trouble says whether a person should look at the device.
func (d *Device) Trouble() bool {
	switch d.Health {
	case "", "healthy", "dead":
		return d.Silent > 0
	}
	return true
}

// Idle says whether nothing happens on the device and nothing is wrong with it.
func (d *Device) Idle() bool {
	return !d.Trouble() && d.InFlight <= 0 && (d.Rates == nil || d.Rates.IOPS() == 0)
}

// Orphan says whether the device waits for a server.
func (d *Device) Orphan() bool { return d.State == "QUIESCED" || d.State == "FAIL_IO" }

// StateText is the state as the driver has it, or, of a LIVE device with which
// something is wrong, what that is in small letters.
func (d *Device) StateText() string {
	switch {
	case d.State == "":
		return "?"
	case d.State == "LIVE" && d.Trouble() && d.Health != "healthy" && d.Health != "":
		return d.Health
	}
	return d.State
}

// ServerText is who serves the device and how that is going, in a few words.
func (d *Device) ServerText() string {
	s := &d.Server
	switch {
	case d.Silent >= time.Second:
		return "unresponsive " + units.FormatAge(d.Silent)
	case d.Silent > 0:
		return "unresponsive"
	case d.Orphan():
		return d.orphanText()
	case s.PID == 0 && d.State == "LIVE":
		return "gone" + d.held()
	case s.PID == 0:
		return "-"
	case !s.Alive:
		return fmt.Sprintf("%d gone", s.PID) + d.held()
	}
	text := fmt.Sprint(s.PID)
	if !s.Own && s.Command != "" {
		text += " " + printable(s.Command)
	}
	switch {
	case s.State == 'T' || s.State == 't':
		return text + " stopped" + d.since() + d.held()
	case d.Trouble():
		return text + " " + d.Health + d.since() + d.held()
	case s.CPU == Unknown:
		return text
	}
	return fmt.Sprintf("%s  %.1f cpu", text, s.CPU)
}

// orphanText is about a device without a server: which one died, since when,
// how many requests wait, and who sees to it.
func (d *Device) orphanText() string {
	text := "gone"
	if d.Server.PID > 0 {
		text = fmt.Sprintf("%d gone", d.Server.PID)
	}
	text += d.since() + d.held()
	if d.Handler != "" {
		text += " · " + printable(d.Handler)
	}
	return text
}

// since is for how long, with a blank before it.
func (d *Device) since() string {
	if d.For < 0 {
		return ""
	}
	if d.AtLeast {
		return " >" + units.FormatAge(d.For)
	}
	return " " + units.FormatAge(d.For)
}

// held is how many requests are stuck.
func (d *Device) held() string {
	if d.InFlight <= 0 {
		return ""
	}
	return fmt.Sprintf(" · %d held", d.InFlight)
}

// Story tells in a sentence what is wrong with the device and what helps; ""
// if nothing is.
func (d *Device) Story() string {
	since := strings.TrimSpace(d.since())
	waiting := plural(d.InFlight, "request waits", "requests wait")
	switch {
	case d.Silent > 0 && d.Silent < time.Second:
		return "does not answer: what is shown is older"
	case d.Silent > 0:
		return fmt.Sprintf("has not answered for %s: what is shown is older than that", units.FormatAge(d.Silent))
	case d.Orphan():
		return d.orphanStory()
	case d.Health == "stalled" && (d.Server.State == 'T' || d.Server.State == 't'):
		return fmt.Sprintf("server %d is stopped (%c): %s; kill -CONT %d lets it go on", d.Server.PID, d.Server.State, waiting, d.Server.PID)
	case d.Health == "stalled":
		return fmt.Sprintf("no request completed for %s: %s for server %s", since, waiting, pidText(d.Server.PID))
	case d.Health == "parked":
		return fmt.Sprintf("LIVE, but the driver keeps requests from the server for %s: %s; quiesce and recover it", since, waiting)
	case d.Health == "wedged":
		return fmt.Sprintf("is being stopped and does not get there (%s): end server %s", since, pidText(d.Server.PID))
	}
	return ""
}

func (d *Device) orphanStory() string {
	died := "its server died"
	if d.Server.PID > 0 {
		died = fmt.Sprintf("server %d died", d.Server.PID)
	}
	if d.AtLeast {
		died += " more than"
	}
	fate := plural(d.InFlight, "request waits", "requests wait")
	if d.State == "FAIL_IO" {
		fate = "I/O fails"
	}
	text := fmt.Sprintf("%s %s ago; %s", died, units.FormatAge(d.For), fate)
	if d.Recovery != "" {
		text += "; recovery=" + d.Recovery
	}
	if d.Handler != "" {
		return text + "; in the hands of " + printable(d.Handler)
	}
	return text + fmt.Sprintf("; ublk recover %d", d.ID)
}

func pidText(pid int) string {
	if pid <= 0 {
		return "(unknown)"
	}
	return fmt.Sprint(pid)
}

func plural(n int, one, many string) string {
	switch {
	case n < 0:
		return many
	case n == 1:
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// printable makes text from outside one cell a character: what is not printable
// ASCII becomes an escape.
func printable(s string) string {
	var out strings.Builder
	for _, r := range table.Escape(s) {
		if r < ' ' || r > '~' {
			fmt.Fprintf(&out, `\u%04x`, r)
		} else {
			out.WriteRune(r)
		}
	}
	return out.String()
}
