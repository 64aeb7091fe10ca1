package cmd

import (
	"fmt"
	"strings"
	"time"

	"ublk/internal/rundir"
	"ublk/internal/units"
	"ublk/internal/watch"
)

// crashView is what is known of the end of a device's last server but one, or of
// the last one where there is none now.
type crashView struct {
	PID     int        `json:"pid"`
	Noticed *time.Time `json:"noticed"` // null: nobody was watching
	How     *string    `json:"how"`     // null: nobody could tell
	Held    []heldTag  `json:"held"`    // requests that it had not answered; null: unknown
	Torn    bool       `json:"torn"`    // it died while it was taking requests: there may have been more
	Panic   *string    `json:"panic"`
}

// How much of a panic is told: in JSON, in bytes, and to people.
const (
	panicText  = 4 << 10
	panicLines = 16
)

// lastCrash puts together what the dead server, its kernel and the watch left.
// nil if no server of the device has died.
func lastCrash(dir rundir.Dir, last *pageView) *crashView {
	c := &crashView{}
	death, err := watch.LastDeath(dir)
	switch {
	case err == nil && (last == nil || !last.Dead || death.PID == last.PID):
		c.PID, c.Noticed = death.PID, &death.Noticed
		if death.How != "" {
			c.How = &death.How
		}
	case last != nil && last.Dead:
		c.PID = last.PID
	default:
		return nil
	}
	for _, path := range []string{dir.Stats(), fmt.Sprintf("%s.%d", dir.Stats(), c.PID)} {
		if page, err := readPage(path); err == nil && page.PID == c.PID {
			c.Held, c.Torn = append([]heldTag{}, page.Held...), page.Torn
		}
	}
	if c.How != nil && !strings.Contains(*c.How, "panic") {
		return c
	}
	if text, err := watch.LastPanic(dir, panicText, false); err == nil && text != "" {
		c.Panic = &text
	}
	return c
}

// crash tells how the last server died.
func (p *infoText) crash(c *crashView) {
	if c == nil {
		return
	}
	p.section("Last crash")
	server := fmt.Sprint(c.PID)
	if c.How != nil {
		server += ", " + *c.How
	}
	p.line("Server", server)
	if c.Noticed != nil {
		p.line("Noticed", c.Noticed.Local().Format("2006-01-02 15:04:05.000"))
	}
	if c.Held != nil {
		p.linef("It held", "%s%s", units.Counted(len(c.Held), "request"), ifTrue(c.Torn, ", and was taking more"))
	}
	for _, t := range c.Held {
		p.linef("", "queue %d tag %d: %s of %d bytes at sector %d, since %s", t.Queue, t.Tag, t.Op, t.Bytes, t.Sector,
			time.Now().Add(-time.Duration(t.Age*float64(time.Second))).Format("15:04:05.000"))
	}
	if c.Panic != nil {
		lines := strings.Split(strings.ReplaceAll(*c.Panic, "\t", "    "), "\n")
		p.line("Panic", lines[:min(len(lines), panicLines)]...)
	}
}
