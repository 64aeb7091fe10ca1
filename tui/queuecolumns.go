package tui

import (
	"fmt"
	"time"

	"ublk/internal/table"
	"ublk/internal/units"
)

func queueColumns() []column[Queue] {
	return []column[Queue]{
		{tight: 3, width: 4, Column: table.Column[Queue]{Name: "Q", Right: true, Value: func(q Queue) table.Value { return table.Int(q.Index) }}},
		{rank: 5, tight: 6, width: 7, gap: 2, Column: table.Column[Queue]{Name: "THREAD", Right: true, Value: func(q Queue) table.Value { return known(q.TID > 0, table.Int(q.TID)) }}},
		{rank: 6, tight: 4, width: 4, gap: 2, largest: true, Column: table.Column[Queue]{Name: "CPU", Right: true, Value: func(q Queue) table.Value { return known(q.CPU >= 0, table.Float(q.CPU, 2)) }}},
		{rank: 8, tight: 2, width: 2, gap: 2, Column: table.Column[Queue]{Name: "ON", Right: true, Value: func(q Queue) table.Value { return number(q.LastCPU) }}},
		{rank: 1, tight: 8, width: 8, gap: 2, largest: true, Column: table.Column[Queue]{Name: "INFLIGHT", Right: true, Value: queueInFlight}},
		{rank: 3, tight: 4, width: 5, gap: 2, largest: true, Column: table.Column[Queue]{Name: "IOPS", Right: true, Value: ofQueue(func(r *Rates) table.Value { return table.Count(r.IOPS()) })}},
		{rank: 4, tight: 6, width: 8, gap: 2, largest: true, Column: table.Column[Queue]{Name: "READ/s", Right: true, Value: ofQueue(func(r *Rates) table.Value { return table.Rate(r.ReadBytes) })}},
		{rank: 4, tight: 7, width: 7, gap: 2, largest: true, Column: table.Column[Queue]{Name: "WRITE/s", Right: true, Value: ofQueue(func(r *Rates) table.Value { return table.Rate(r.WriteBytes) })}},
		{rank: 9, tight: 4, width: 4, gap: 2, largest: true, Column: table.Column[Queue]{Name: "P50", Right: true, Value: func(q Queue) table.Value { return latencyValue(q.Latency.P50) }}},
		{rank: 7, tight: 4, width: 4, gap: 2, largest: true, Column: table.Column[Queue]{Name: "P99", Right: true, Value: func(q Queue) table.Value { return latencyValue(q.Latency.P99) }}},
		{rank: 7, tight: 3, width: 3, gap: 2, largest: true, Column: table.Column[Queue]{Name: "ERR", Right: true, Value: func(q Queue) table.Value { return number(q.Errors) }}},
		{rank: 2, tight: 6, width: 6, gap: 2, largest: true, Column: table.Column[Queue]{Name: "OLDEST", Right: true, Value: func(q Queue) table.Value { return ageValue(q.Oldest) }}},
		{rank: 0, tight: 4, width: 4, gap: 2, Column: table.Column[Queue]{Name: "CPUS", Value: func(q Queue) table.Value { return text(q.CPUs) }}},
	}
}

func tagColumns() []column[Tag] {
	return []column[Tag]{
		{tight: 4, width: 5, Column: table.Column[Tag]{Name: "TAG", Right: true, Value: func(t Tag) table.Value { return table.Int(t.Tag) }}},
		{rank: 1, tight: 7, width: 12, gap: 2, Column: table.Column[Tag]{Name: "OP", Value: func(t Tag) table.Value { return text(printable(t.Op)) }}},
		{rank: 4, tight: 7, width: 14, gap: 2, Column: table.Column[Tag]{Name: "SECTOR", Right: true, Value: func(t Tag) table.Value {
			return known(t.Bytes > 0, table.Uint(t.Sector))
		}}},
		{rank: 3, tight: 5, width: 8, gap: 2, largest: true, Column: table.Column[Tag]{Name: "BYTES", Right: true, Value: func(t Tag) table.Value {
			return known(t.Bytes > 0, table.Size(uint64(t.Bytes)))
		}}},
		{rank: 2, tight: 5, width: 7, gap: 2, largest: true, Column: table.Column[Tag]{Name: "AGE", Right: true, Value: func(t Tag) table.Value { return ageValue(t.Age) }}},
		{rank: 0, tight: 6, width: 6, gap: 2, Column: table.Column[Tag]{Name: "HELD BY", Value: func(t Tag) table.Value { return text(string(t.Holder)) }}},
	}
}

func queueInFlight(q Queue) table.Value {
	return known(q.InFlight >= 0, table.Custom(fmt.Sprintf("%d/%d", q.InFlight, q.Depth), int64(q.InFlight)))
}

func ofQueue(value func(*Rates) table.Value) func(Queue) table.Value {
	return func(q Queue) table.Value {
		if q.Rates == nil {
			return table.Null()
		}
		return value(q.Rates)
	}
}

func ageValue(d time.Duration) table.Value { return known(d >= 0, table.Custom(ageText(d), int64(d))) }

// ageText is an age of any length in few cells: 84µs, 5.2ms, 8.1s, 4m12s. Unlike
// a latency's, its unit is whole: minutes are not far.
func ageText(d time.Duration) string {
	switch {
	case d < 0:
		return "-"
	case d >= 100*time.Second:
		return units.FormatAge(d)
	case d >= time.Second || d == 0:
		return units.FormatLatency(d)
	}
	return units.FormatLatency(d) + "s"
}
