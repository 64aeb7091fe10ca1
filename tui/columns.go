package tui

import (
	"fmt"
	"time"

	"ublk/internal/table"
)

// column is a column of the screen: one of a table, and how it gives way.
type column[T any] struct {
	table.Column[T]
	rank    int  // the lower, the longer it stays on a narrow screen
	tight   int  // cells at least
	width   int  // cells at least, where there is room
	gap     int  // cells before it
	sparse  bool // only where a row has it; never in a text without end
	largest bool // sorted by, the largest comes first
}

// Devices is the table of what is known of a device: the columns of the screen
// and those of its text and JSON forms, of `ublk stat` too.
func Devices() table.Table[Device] {
	t := table.Table[Device]{Plural: "ublkdevices"}
	for _, c := range deviceColumns() {
		t.Columns = append(t.Columns, c.Column)
		if !c.sparse {
			t.Default = append(t.Default, c.Name)
		}
	}
	t.Columns = append(t.Columns, moreColumns()...)
	return t
}

// ColumnHelp says what the columns of the screen mean, an indented line each.
func ColumnHelp() string {
	t := Devices()
	t.Columns = t.Columns[:len(deviceColumns())]
	return t.Help()
}

// deviceColumns are those of the screen, from left to right.
func deviceColumns() []column[Device] {
	return []column[Device]{
		{rank: 0, tight: 3, width: 4, gap: 0, Column: table.Column[Device]{Name: "ID", Key: "id", Help: "device number", Right: true,
			Value: func(d Device) table.Value { return table.Int(d.ID) }}},
		{rank: 11, tight: 4, width: 6, gap: 1, sparse: true, Column: table.Column[Device]{Name: "NAME", Key: "name", Help: "name given with add --name",
			Value: func(d Device) table.Value { return text(printable(d.Name)) }}},
		{rank: 9, tight: 4, width: 5, gap: 1, Column: table.Column[Device]{Name: "TYPE", Key: "type", Help: "target that a server of ours serves",
			Value: func(d Device) table.Value { return text(printable(d.Type)) }}},
		{rank: 1, tight: 8, width: 8, gap: 1, Column: table.Column[Device]{Name: "STATE", Key: "state", Help: "DEAD, LIVE, QUIESCED or FAIL_IO; what is wrong with a LIVE device, except in JSON",
			Value: func(d Device) table.Value { return known(d.State != "", table.Custom(d.StateText(), d.State)) }}},
		{rank: 8, tight: 1, width: 1, gap: 2, largest: true, Column: table.Column[Device]{Name: "Q", Key: "queues", Help: "number of queues", Right: true,
			Value: func(d Device) table.Value { return number(d.Queues) }}},
		{rank: 2, tight: 8, width: 8, gap: 2, largest: true, Column: table.Column[Device]{Name: "INFLIGHT", Key: "in_flight", Help: "requests accepted and not completed, of all tags", Right: true,
			Value: inFlight}},
		{rank: 3, tight: 4, width: 5, gap: 2, largest: true, Column: table.Column[Device]{Name: "IOPS", Key: "iops", Help: "requests a second", Right: true,
			Value: rate((*Rates).IOPS)}},
		{rank: 4, tight: 6, width: 8, gap: 2, largest: true, Column: table.Column[Device]{Name: "READ/s", Key: "read_bytes_per_second", Help: "bytes read a second", Right: true,
			Value: bytesRate(func(r *Rates) float64 { return r.ReadBytes })}},
		{rank: 5, tight: 7, width: 7, gap: 2, largest: true, Column: table.Column[Device]{Name: "WRITE/s", Key: "write_bytes_per_second", Help: "bytes written a second", Right: true,
			Value: bytesRate(func(r *Rates) float64 { return r.WriteBytes })}},
		{rank: 10, tight: 4, width: 4, gap: 2, largest: true, Column: table.Column[Device]{Name: "P50", Key: "p50_ns", Help: "median of what the server took for reads and writes; - of none, or of those answered at once", Right: true,
			Value: latency(func(l Latency) time.Duration { return l.P50 })}},
		{rank: 6, tight: 4, width: 4, gap: 2, largest: true, Column: table.Column[Device]{Name: "P99", Key: "p99_ns", Help: "99th percentile of it", Right: true,
			Value: latency(func(l Latency) time.Duration { return l.P99 })}},
		{rank: 7, tight: 3, width: 3, gap: 2, largest: true, Column: table.Column[Device]{Name: "ERR", Key: "errors", Help: "requests that the server failed since it started", Right: true,
			Value: func(d Device) table.Value { return number(d.Errors) }}},
		{rank: 0, tight: 6, width: 6, gap: 2, Column: table.Column[Device]{Name: "SERVER", Key: "server", Help: "process that serves the device, or what became of it; in JSON its pid, command, whether it is alive, and CPUs that it used",
			Value: server}},
	}
}

// moreColumns are those that only -o and JSON show.
func moreColumns() []table.Column[Device] {
	of := func(name, key, help string, right bool, value func(Device) table.Value) table.Column[Device] {
		return table.Column[Device]{Name: name, Key: key, Help: help, Right: right, Value: value}
	}
	return []table.Column[Device]{
		of("HEALTH", "health", "healthy, stalled, parked, waiting, failing, wedged or dead", false, func(d Device) table.Value { return text(d.Health) }),
		of("RECOVERY", "recovery", "what happens when the server dies", false, func(d Device) table.Value { return text(d.Recovery) }),
		of("DEPTH", "depth", "tags of a queue", true, func(d Device) table.Value { return number(d.Depth) }),
		of("R/s", "reads_per_second", "reads a second", true, rate(func(r *Rates) float64 { return r.Reads })),
		of("W/s", "writes_per_second", "writes a second", true, rate(func(r *Rates) float64 { return r.Writes })),
		of("O/s", "others_per_second", "flushes and discards a second", true, rate(func(r *Rates) float64 { return r.Others })),
		of("R-TIME", "read_time_ns", "mean time of a read, from acceptance to completion", true, duration(func(r *Rates) time.Duration { return r.ReadTime })),
		of("W-TIME", "write_time_ns", "mean time of a write", true, duration(func(r *Rates) time.Duration { return r.WriteTime })),
		of("AQU", "mean_in_flight", "mean number of requests in flight", true, fixed(func(r *Rates) float64 { return r.InFlight }, 1)),
		of("UTIL", "busy", "part of the time with requests in flight, 1 is all of it", true, fixed(func(r *Rates) float64 { return r.Busy }, 2)),
		of("P90", "p90_ns", "90th percentile of what the server took", true, latency(func(l Latency) time.Duration { return l.P90 })),
		of("P99.9", "p999_ns", "99.9th percentile of it", true, latency(func(l Latency) time.Duration { return l.P999 })),
		of("PID", "server_pid", "process that serves the device, or the one that died", true, func(d Device) table.Value {
			return known(d.Server.PID > 0, table.Int(d.Server.PID))
		}),
		of("COMMAND", "server_command", "its name", false, func(d Device) table.Value { return text(d.Server.Command) }),
		of("ALIVE", "server_alive", "whether it lives", false, func(d Device) table.Value { return known(d.Server.PID > 0, table.Bool(d.Server.Alive)) }),
		of("CPU", "server_cpu", "CPUs that it used", true, func(d Device) table.Value { return known(d.Server.CPU >= 0, table.Float(d.Server.CPU, 2)) }),
		of("FOR", "trouble_seconds", "how long the device has been in trouble", true, func(d Device) table.Value {
			return known(d.Trouble() && d.For >= 0, table.Float(d.For.Seconds(), 0))
		}),
		of("AT-LEAST", "trouble_at_least", "whether it was so already when first seen", false, func(d Device) table.Value {
			return known(d.Trouble(), table.Bool(d.AtLeast))
		}),
		of("HANDLER", "handler", "who sees to a device without a server", false, func(d Device) table.Value { return text(d.Handler) }),
		of("SILENT", "unresponsive_seconds", "how long the device has not answered", true, func(d Device) table.Value {
			return known(d.Silent > 0, table.Float(d.Silent.Seconds(), 1))
		}),
	}
}

// inFlight prints like 37/512, and is the number alone in JSON and in sorting.
func inFlight(d Device) table.Value {
	if d.InFlight < 0 {
		return table.Null()
	}
	if d.Queues <= 0 || d.Depth <= 0 {
		return table.Int(d.InFlight)
	}
	return table.Custom(fmt.Sprintf("%d/%d", d.InFlight, d.Queues*d.Depth), int64(d.InFlight))
}

// server is in words on the screen, and the process by its parts in JSON.
func server(d Device) table.Value {
	type process struct {
		PID     *int     `json:"pid"`
		Command *string  `json:"command"`
		Alive   bool     `json:"alive"`
		CPU     *float64 `json:"cpu"`
	}
	words := d.ServerText()
	if words == "-" {
		return table.Null()
	}
	p := process{Alive: d.Server.Alive}
	if d.Server.PID > 0 {
		p.PID = &d.Server.PID
	}
	if d.Server.Command != "" {
		p.Command = &d.Server.Command
	}
	if d.Server.CPU >= 0 {
		p.CPU = &d.Server.CPU
	}
	return table.Custom(words, p)
}

func text(s string) table.Value { return known(s != "", table.String(s)) }

// number is a count that may be Unknown.
func number[N int | int64](n N) table.Value { return known(n >= 0, table.Int(n)) }

func known(is bool, v table.Value) table.Value {
	if is {
		return v
	}
	return table.Null()
}

func rate(of func(*Rates) float64) func(Device) table.Value {
	return ofRates(func(r *Rates) table.Value { return table.Count(of(r)) })
}

func bytesRate(of func(*Rates) float64) func(Device) table.Value {
	return ofRates(func(r *Rates) table.Value { return table.Rate(of(r)) })
}

func fixed(of func(*Rates) float64, decimals int) func(Device) table.Value {
	return ofRates(func(r *Rates) table.Value { return table.Float(of(r), decimals) })
}

func duration(of func(*Rates) time.Duration) func(Device) table.Value {
	return ofRates(func(r *Rates) table.Value { return latencyValue(of(r)) })
}

func ofRates(value func(*Rates) table.Value) func(Device) table.Value {
	return func(d Device) table.Value {
		if d.Rates == nil {
			return table.Null()
		}
		return value(d.Rates)
	}
}

func latency(of func(Latency) time.Duration) func(Device) table.Value {
	return func(d Device) table.Value { return latencyValue(of(d.Latency)) }
}

func latencyValue(d time.Duration) table.Value { return known(d >= 0, table.Latency(d)) }
