package cmd

import (
	"ublk/internal/stats"
	"ublk/internal/sysfs"
)

// processFields is a server's process in JSON.
type processFields struct {
	PID        int      `json:"pid"`
	Comm       string   `json:"comm"`
	Command    []string `json:"command"`
	State      string   `json:"state"`
	UID        int      `json:"uid"`
	Uptime     float64  `json:"uptime"`   // seconds
	CPU        float64  `json:"cpu_time"` // seconds
	RSS        uint64   `json:"rss"`      // bytes
	Threads    int      `json:"threads"`
	IOFlusher  bool     `json:"io_flusher"`
	StartTicks uint64   `json:"start_ticks"`
}

func serverFields(p *sysfs.Process) *processFields {
	if p == nil {
		return nil
	}
	return &processFields{
		PID: p.PID, Comm: p.Comm, Command: append([]string{}, p.Command...), State: string(rune(p.State)), UID: p.UID,
		Uptime: p.Uptime.Seconds(), CPU: p.CPU.Seconds(), RSS: p.RSS, Threads: p.Threads, IOFlusher: p.IOFlusher(), StartTicks: p.StartTicks,
	}
}

// userField is somebody who uses the device, in JSON.
type userField struct {
	Kind       string  `json:"kind"`
	Device     string  `json:"device"`
	PID        *int    `json:"pid"`
	Command    *string `json:"command"`
	MountPoint *string `json:"mount_point"`
	FSType     *string `json:"fs_type"`
	Name       *string `json:"name"`
	Text       string  `json:"text"`
}

// userFields is null where nothing could be found out.
func (d *detail) userFields() any {
	if d.UsersError != nil {
		return nil
	}
	fields := []userField{}
	for _, u := range d.Users {
		fields = append(fields, userField{
			Kind: string(u.Kind), Device: u.Device, PID: nonZero(u.PID), Command: nonZero(u.Command),
			MountPoint: nonZero(u.MountPoint), FSType: nonZero(u.FSType), Name: nonZero(u.Name), Text: u.String(),
		})
	}
	return fields
}

func nonZero[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

// counterFields are the block layer's counters in JSON.
type counterFields struct {
	Read           directionFields `json:"read"`
	Write          directionFields `json:"write"`
	Discard        directionFields `json:"discard"`
	Flushes        uint64          `json:"flush_ios"`
	InFlight       uint64          `json:"in_flight"`        // accepted and not completed
	InFlightReads  *uint64         `json:"in_flight_reads"`  // inside the driver
	InFlightWrites *uint64         `json:"in_flight_writes"` // inside the driver
	BusyMillis     uint32          `json:"busy_ms"`
}

type directionFields struct {
	IOs    uint64 `json:"ios"`
	Merges uint64 `json:"merges"`
	Bytes  uint64 `json:"bytes"`
	Millis uint32 `json:"ms"`
}

func (d *detail) counterFields() *counterFields {
	if d.Stat == nil {
		return nil
	}
	direction := func(c sysfs.Counts) directionFields {
		return directionFields{IOs: c.Ops, Merges: c.Merges, Bytes: c.Sectors * 512, Millis: c.Millis}
	}
	s := d.Stat
	f := &counterFields{
		Read: direction(s.Read), Write: direction(s.Write), Discard: direction(s.Discard),
		Flushes: s.FlushOps, InFlight: s.InFlight, BusyMillis: s.BusyMillis,
	}
	if d.Inflight != nil {
		f.InFlightReads, f.InFlightWrites = &d.Inflight.Reads, &d.Inflight.Writes
	}
	return f
}

// pageFields is a statistics page in JSON.
type pageFields struct {
	ServerPID int                   `json:"server_pid"`
	Dead      bool                  `json:"dead"` // of a server that is gone
	Torn      bool                  `json:"torn"` // it died, or is stuck, inside a batch
	Ops       map[string]kindFields `json:"ops"`
	Latency   map[string]latency    `json:"latency"` // of read, write and all other operations
	Held      []heldTag             `json:"held"`    // by the server, or when it died
}

// latency is null where nothing was counted, and where requests were answered
// in the batch that they came in, which is not measured.
type latency struct {
	P50 *uint64 `json:"p50_ns"`
	P99 *uint64 `json:"p99_ns"`
}

// histogramNames are those of pageView.Hist.
var histogramNames = [...]string{"read", "write", "other"}

type kindFields struct {
	IOs    uint64 `json:"ios"`
	Bytes  uint64 `json:"bytes"`
	Errors uint64 `json:"errors"`
	TimeNS uint64 `json:"time_ns"`
}

func (p *pageView) fields() *pageFields {
	if p == nil {
		return nil
	}
	f := &pageFields{ServerPID: p.PID, Dead: p.Dead, Torn: p.Torn, Ops: map[string]kindFields{}, Latency: map[string]latency{}, Held: append([]heldTag{}, p.Held...)}
	for kind := range stats.Kinds {
		c := p.Count[kind]
		f.Ops[kind.String()] = kindFields{IOs: c.IOs, Bytes: c.Bytes, Errors: c.Errors, TimeNS: c.TimeNS}
	}
	for i, name := range histogramNames {
		f.Latency[name] = latency{quantile(&p.Hist[i], 0.5), quantile(&p.Hist[i], 0.99)}
	}
	return f
}

func quantile(h *stats.Histogram, p float64) *uint64 {
	if ns, ok := h.Quantile(p); ok && ns > 0 {
		return &ns
	}
	return nil
}
