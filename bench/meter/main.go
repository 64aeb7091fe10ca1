// Meter measures ublk servers side by side in one boot: see bench/README.md. It
// runs in the lab, as root.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

func main() {
	kind := flag.String("meter", "count", "count (one emulated CPU that counts instructions) or time")
	rounds := flag.Int("rounds", 3, "rounds, each of every contender in turn")
	runtime := flag.Float64("runtime", 1, "seconds of load a cell")
	only := flag.String("only", "", "workloads whose name contains this")
	out := flag.String("json", "", "write the results to this file, too")
	flag.Parse()
	if err := run(*kind, *rounds, *runtime, *only, *out); err != nil {
		fmt.Fprintln(os.Stderr, "meter:", err)
		os.Exit(1)
	}
}

// results is what a run leaves.
type results struct {
	Meter   string   `json:"meter"`
	Kernel  string   `json:"kernel"`
	Missing []string `json:"missing,omitempty"`
	Rows    []row    `json:"rows"`
}

// row is one contender under one workload: medians of the rounds.
type row struct {
	Workload  string  `json:"workload"`
	Contender string  `json:"contender"`
	IOPS      float64 `json:"iops"`
	CPU       float64 `json:"cpu_us_per_io"`
	IOPSRatio float64 `json:"iops_ratio"`          // to the first contender
	CPURatio  float64 `json:"cpu_ratio,omitempty"` // 0: the first has no server
}

func run(kind string, rounds int, runtime float64, only, out string) error {
	kernel, err := exec.Command("uname", "-r").Output()
	if err != nil {
		return err
	}
	r := results{Meter: kind, Kernel: strings.TrimSpace(string(kernel))}
	for _, s := range suites(kind) {
		if only != "" && !strings.Contains(s.name, only) {
			continue
		}
		if err := s.run(&r, rounds, runtime); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	if out == "" {
		return nil
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(out, append(text, '\n'), 0o644)
}

// print shows the rows of one workload as they come.
func (r *results) print(rows []row) {
	if len(r.Rows) == 0 {
		fmt.Printf("# %s meter, Linux %s\n%-34s %-28s %9s %10s %6s %6s\n", r.Meter, r.Kernel, "workload", "server", "IOPS", "CPU/IO µs", "IOPS×", "CPU×")
	}
	for _, x := range rows {
		fmt.Printf("%-34s %-28s %9.0f %10.3f %6.2f %6.3f\n", x.Workload, x.Contender, x.IOPS, x.CPU, x.IOPSRatio, x.CPURatio)
	}
	r.Rows = append(r.Rows, rows...)
}
