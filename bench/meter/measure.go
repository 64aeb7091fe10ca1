package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"ublk/ctrl"
)

// device is a contender that is up.
type device struct {
	contender
	id   int // -1: no ublk device
	node string
	pid  int // its server, 0 if it has none
}

// run brings all contenders up, measures them in turn and takes them down.
func (s *suite) run(r *results, rounds int, runtime float64) (err error) {
	for _, cmd := range s.prepare {
		if err := command(cmd); err != nil {
			return err
		}
	}
	defer func() {
		for _, cmd := range s.cleanup {
			err = errors.Join(err, command(cmd))
		}
	}()
	client, err := ctrl.Open()
	if err != nil {
		return err
	}
	defer client.Close()
	var devices []device
	defer func() {
		for _, d := range devices {
			if d.del != nil {
				err = errors.Join(err, command(d.del(d.id)))
			}
		}
	}()
	for i, c := range s.available(r) {
		d := device{contender: c, id: -1, node: c.node}
		if c.add != nil {
			if err := command(c.add(i)); err != nil {
				return err
			}
			info, err := client.Info(context.Background(), i)
			if err != nil {
				return err
			}
			d.id, d.node, d.pid = i, ctrl.BlockPath(i), info.ServerPID
		}
		devices = append(devices, d)
	}
	for _, w := range s.workloads {
		if err := s.measure(r, devices, w, rounds, runtime); err != nil {
			return err
		}
	}
	return nil
}

// measure is one workload on all devices.
func (s *suite) measure(r *results, devices []device, w workload, rounds int, runtime float64) error {
	iops, cpu := make([][]float64, len(devices)), make([][]float64, len(devices))
	for range rounds {
		for i, d := range devices {
			if _, _, err := d.load(w, 0.2); err != nil { // warm up: page tables, the pacing of the server
				return err
			}
			rate, perIO, err := d.load(w, runtime)
			if err != nil {
				return err
			}
			iops[i], cpu[i] = append(iops[i], rate), append(cpu[i], perIO)
		}
	}
	rows := make([]row, len(devices))
	for i, d := range devices {
		rows[i] = row{Workload: s.name + ": " + w.name, Contender: d.name, IOPS: median(iops[i]), CPU: median(cpu[i])}
		rows[i].IOPSRatio = rows[i].IOPS / rows[0].IOPS
		if rows[0].CPU > 0 { // a driver of the kernel's has no server
			rows[i].CPURatio = rows[i].CPU / rows[0].CPU
		}
	}
	r.print(rows)
	return nil
}

// load runs fio on the device: requests a second by its own count, and the
// server's CPU time in microseconds for each request that the device completed.
func (d *device) load(w workload, seconds float64) (iops, cpu float64, err error) {
	before, err := d.reading()
	if err != nil {
		return 0, 0, err
	}
	args := append([]string{"--name=bench", "--filename=" + d.node, "--ioengine=io_uring", "--direct=1", "--size=256m", "--norandommap",
		"--randrepeat=0", "--time_based", fmt.Sprintf("--runtime=%dms", int(seconds*1000)), "--output-format=json"}, w.args...)
	cmd := exec.Command("fio", args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return 0, 0, fmt.Errorf("fio on %s: %w\n%s", d.name, err, out)
	}
	after, err := d.reading()
	if err != nil {
		return 0, 0, err
	}
	var report struct {
		Jobs []struct {
			Read, Write struct {
				IOPS float64 `json:"iops"`
			}
		}
	}
	text := string(out)
	if i := strings.IndexByte(text, '{'); i > 0 {
		text = text[i:]
	}
	if err := json.Unmarshal([]byte(text), &report); err != nil {
		return 0, 0, err
	}
	for _, j := range report.Jobs {
		iops += j.Read.IOPS + j.Write.IOPS
	}
	if ios := after.ios - before.ios; ios > 0 {
		cpu = float64(after.cpu-before.cpu) / 1000 / float64(ios)
	}
	return iops, cpu, nil
}

// reading is a device's counters.
type reading struct {
	ios uint64
	cpu uint64 // ns
}

func (d *device) reading() (reading, error) {
	var r reading
	stat, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(d.node), "stat"))
	if err != nil {
		return r, err
	}
	for i, f := range strings.Fields(string(stat)) {
		if i == 0 || i == 4 {
			n, err := strconv.ParseUint(f, 10, 64)
			if err != nil {
				return r, err
			}
			r.ios += n
		}
	}
	if d.pid <= 0 {
		return r, nil
	}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", d.pid))
	if err != nil {
		return r, err
	}
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if errors.Is(err, os.ErrNotExist) { // a worker thread that ended
			continue
		}
		if err != nil {
			return r, err
		}
		n, err := strconv.ParseUint(strings.Fields(string(text))[0], 10, 64)
		if err != nil {
			return r, err
		}
		r.cpu += n
	}
	return r, nil
}

// command runs a preparation or a clean-up. There is no deadline in here: a
// machine that counts instructions skips the time in which it has none to
// count, such as that of a read from the host.
func command(args []string) error {
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}
