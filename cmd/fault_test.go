package cmd

import (
	"testing"

	"ublk/internal/ctrldev/fake"
)

// TestFaultOptions is what is refused before there is a server, and what of the
// wrapped target comes through.
func TestFaultOptions(t *testing.T) {
	m := newMachine(t, fake.Options{})
	add := func(args ...string) result {
		return m.run(append([]string{"add", "-t", "fault", "--dry-run"}, args...)...)
	}
	add().want(t, 64, "needs --on")
	add("--on", "fault").want(t, 64, "can be wrapped")
	add("--on", "loop").want(t, 64, "fault on loop needs --file")
	add("--on", "null", "--buffered").want(t, 64, "no option --buffered")
	add("--on", "null", "--delay", "soon").want(t, 64, "soon")
	add("--on", "null", "--error-rate", "1%:trim").want(t, 64, "trim")
	add("--on", "null", "--seed", "x").want(t, 64, "no whole number")
	add("--on", "null", "--torn", "1%").want(t, 1, "volatile cache")
	add("--on", "null", "--size", "1G", "--delay", "5ms").want(t, 0, "dev_sectors=2097152")
	add("--on", "mem", "--size", "1G", "--volatile-cache", "--torn", "1%").want(t, 0, "volatile_cache=true", "fua=true")
	add("--on", "mem", "--size", "1G", "--volatile-cache", "--data=auto-reg").want(t, 1, "only copy, user-copy")
	m.run("add", "-t", "null", "--delay", "5ms", "--dry-run").want(t, 64, "no option --delay")
}

func TestFaultCommand(t *testing.T) {
	m := newMachine(t, fake.Options{})
	m.run("fault").want(t, 64, "which device?")
	m.run("fault", "0").want(t, 4)
	m.live(4411, 0)
	m.run("fault", "0", "--delay", "x").want(t, 64, "delay")
	m.run("fault", "0", "--delay", "5ms").want(t, 1, "no disk of type fault", "ublk add -t fault")
}
