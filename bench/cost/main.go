// Command cost measures on this machine, without a driver, what looking costs:
// the screen and the commands on made-up devices, and the starts of processes. It
// prints every figure beside its goal.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// figure is something measured, and what it must stay below.
type figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	Goal  float64 `json:"goal,omitempty"` // 0: none
}

func (f *figure) verdict() string {
	switch {
	case f.Goal == 0:
		return "| |"
	case f.Value < f.Goal:
		return fmt.Sprintf("| < %g %s | ok |", f.Goal, f.Unit)
	}
	return fmt.Sprintf("| < %g %s | MISSED |", f.Goal, f.Unit)
}

func main() {
	jsonFile := flag.String("json", "", "write the figures to `FILE`, too")
	program := flag.String("ublk", os.Getenv("UBLK_BIN"), "the `PROGRAM` whose start is measured")
	flag.Parse()
	if err := run(*program, *jsonFile); err != nil {
		fmt.Fprintln(os.Stderr, "cost:", err)
		os.Exit(1)
	}
}

func run(program, jsonFile string) error {
	figures, err := measure(program)
	if err != nil {
		return err
	}
	fmt.Printf("| %-59s | %-9s | goal | |\n|---|---:|---:|---|\n", "what", "measured")
	for _, f := range figures {
		fmt.Printf("| %-59s | %6.2f %-2s %s\n", f.Name, f.Value, f.Unit, f.verdict())
	}
	if jsonFile == "" {
		return nil
	}
	text, err := json.MarshalIndent(map[string]any{"meter": "cost", "figures": figures}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(jsonFile, append(text, '\n'), 0o644)
}

// measure runs the benchmarks of the packages, and the program.
func measure(program string) ([]figure, error) {
	screen, err := bench("./internal/sample", "Screen", "1x")
	if err != nil {
		return nil, err
	}
	work, err := bench("./cmd", "List|Complete", "50x")
	if err != nil {
		return nil, err
	}
	start, err := startTime(program, "version")
	if err != nil {
		return nil, err
	}
	complete, err := startTime(program, "__complete", "info", "")
	if err != nil {
		return nil, err
	}
	figures := []figure{
		{"ublk version", start, "ms", 10},
		{"ublk __complete info '', no driver", complete, "ms", 50},
		{"ublk __complete info '', 64 devices: a process and its work", start + work["Complete ms"], "ms", 50},
		{"ublk list, 64 devices: two processes and their work", 2*start + work["List ms"], "ms", 50},
	}
	for _, n := range []int{10, 500} {
		for _, kind := range []string{"ours", "foreign"} {
			key := fmt.Sprintf("Screen/%s/%d ", kind, n)
			name := fmt.Sprintf("ublk top, %d devices (%s): ", n, kind)
			figures = append(figures,
				figure{name + "CPU at 1 Hz", screen[key+"%cpu"], "%", map[int]float64{10: 1, 500: 10}[n]},
				figure{name + "first frame", start + screen[key+"ms/first"], "ms", 100},
				figure{name + "devices on the screen", start + screen[key+"ms/devices"], "ms", map[int]float64{10: 100}[n]})
		}
	}
	return figures, nil
}

// bench runs Go benchmarks and returns what they report, as in "Screen/ours/10 %cpu".
func bench(pkg, names, times string) (map[string]float64, error) {
	cmd := exec.Command("go", "test", "-run", "^$", "-bench", "^Benchmark("+names+")$", "-benchtime", times, pkg)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%v: %w\n%s", cmd.Args, err, out)
	}
	values := map[string]float64{}
	for line := range strings.Lines(string(out)) {
		name, is := strings.CutPrefix(line, "Benchmark")
		fields := strings.Fields(name)
		if !is || len(fields) < 2 {
			continue
		}
		name = fields[0]
		if i := strings.LastIndex(name, "-"); i > 0 { // GOMAXPROCS
			name = name[:i]
		}
		for pair := range slices.Chunk(fields[2:], 2) {
			if value, err := strconv.ParseFloat(pair[0], 64); err == nil && len(pair) == 2 {
				values[name+" "+pair[1]] = value
			}
		}
	}
	return values, nil
}

// startTime is the median of how long the program takes from start to end.
func startTime(program string, args ...string) (float64, error) {
	const rounds = 41
	var took []float64
	for range rounds {
		start := time.Now()
		if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
			return 0, fmt.Errorf("%s %v: %w: %s", program, args, err, out)
		}
		took = append(took, float64(time.Since(start).Microseconds())/1000)
	}
	slices.Sort(took)
	return took[rounds/2], nil
}
