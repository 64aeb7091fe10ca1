package cmd

import (
	"fmt"
	"strings"
	"time"

	"ublk/ctrl"
	"ublk/internal/sysfs"
)

// times are how long some things may take. Tests are less patient.
type times struct {
	patience time.Duration // a wait, before it is explained
	udev     time.Duration // udev, to look at a disk
	params   time.Duration // GET_PARAMS, behind a mutex that a stuck command can hold for ever
}

func usualTimes() times {
	return times{patience: 2 * time.Second, udev: 2 * time.Second, params: 2 * time.Second}
}

// waiting runs do. When that takes long it says on stderr what is waited for,
// and who holds it up if who can tell.
func (a *app) waiting(what string, who func() string, do func() error) error {
	told := make(chan struct{})
	timer := time.AfterFunc(a.times.patience, func() {
		defer close(told)
		line := fmt.Sprintf("ublk: %s: waiting for %s", a.name, what)
		if by := who(); by != "" {
			line += "; " + by
		}
		fmt.Fprintln(a.stderr, line)
	})
	err := do()
	if !timer.Stop() {
		select {
		case <-told:
		case <-time.After(time.Second / 10): // whoever looks can hang as well
		}
	}
	return err
}

// holdUp says why a command on a device may be stuck: its server is stopped or
// stuck itself, or somebody has the device open. "" if nothing is to be seen.
func (a *app) holdUp(info ctrl.DevInfo) string {
	var reasons []string
	if process, err := a.fs.ProcessStat(info.ServerPID); info.ServerPID > 0 && err == nil {
		switch process.State {
		case 'T', 't':
			reasons = append(reasons, fmt.Sprintf("its server %d (%s) is stopped by a signal: kill -CONT %d, or kill -KILL %d", process.PID, process.Comm, process.PID, process.PID))
		case 'D':
			reasons = append(reasons, fmt.Sprintf("its server %d (%s) hangs in the kernel", process.PID, process.Comm))
		default:
			reasons = append(reasons, fmt.Sprintf("its server is %d (%s)", process.PID, process.Comm))
		}
	}
	if users, _, err := a.fs.Users(info.ID); err == nil && len(users) > 0 {
		reasons = append(reasons, usersText(users))
	}
	return strings.Join(reasons, "; ")
}

func usersText(users []sysfs.User) string {
	texts := make([]string, len(users))
	for i, u := range users {
		texts[i] = u.String()
	}
	return strings.Join(texts, "; ")
}
