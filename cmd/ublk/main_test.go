package main

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
)

// TestInits keeps all package inits together under 2 ms: every subcommand, and
// every completion, pays for them. The quickest of some runs counts, since a
// busy machine can only make them slower.
func TestInits(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the program")
	}
	bin := filepath.Join(t.TempDir(), "ublk")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	clock := regexp.MustCompile(`(?m)^init (\S+) @\S+ ms, (\S+) ms clock`)
	best, worst := 1e9, ""
	for range 10 {
		cmd := exec.Command(bin, "version")
		cmd.Env = append(cmd.Environ(), "GODEBUG=inittrace=1")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		inits := clock.FindAllStringSubmatch(string(out), -1)
		if len(inits) == 0 {
			t.Fatalf("no inits in:\n%s", out)
		}
		sum := 0.0
		for _, m := range inits {
			ms, err := strconv.ParseFloat(m[2], 64)
			if err != nil {
				t.Fatal(err)
			}
			sum += ms
		}
		if sum < best {
			best, worst = sum, string(out)
		}
	}
	if best > 2 {
		t.Errorf("package inits take %.2f ms:\n%s", best, worst)
	}
}
