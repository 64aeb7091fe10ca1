package tui

import (
	"context"
	"io"
	"slices"
	"time"

	"ublk/internal/table"
)

// BatchOptions are how samples are printed.
type BatchOptions struct {
	Interval time.Duration // between samples
	Count    int           // samples to print; 0: until the context ends
	Only     []int         // the devices to print; none is all
	Table    table.Options // JSON prints an object a device and sample, each on its own line
	Columns  []string      // printed where Table asks for none; nil are those of the screen
	Title    bool          // text has a line about all devices above each sample
	ASCII    bool          // text has no other characters
	Notes    func(string)  // told once of what cannot be seen; may be nil
}

// Batch prints a sample an interval as text or JSON lines. What is printed
// first comes an interval after the start, since rates need one. The end of ctx
// is no error.
func Batch(ctx context.Context, w io.Writer, sampler Sampler, o BatchOptions) error {
	t := lines(o.Columns)
	if _, err := t.Select(o.Table); err != nil {
		return err
	}
	if o.ASCII && o.Table.Format != table.JSON {
		w = asciiWriter{w}
	}
	clock := time.NewTicker(max(o.Interval, minInterval))
	defer clock.Stop()
	told := map[string]bool{}
	sampler.Sample(ctx)
	for printed := 0; o.Count == 0 || printed < o.Count; printed++ {
		select {
		case <-ctx.Done():
			return nil
		case <-clock.C:
		}
		s := sampler.Sample(ctx)
		if ctx.Err() != nil {
			return nil
		}
		for _, note := range s.Notes {
			if o.Notes != nil && !told[note] {
				o.Notes(note)
				told[note] = true
			}
		}
		if err := printSample(w, t, s, o, printed > 0); err != nil {
			return err
		}
	}
	return nil
}

// timed is a device with the time of its sample.
type timed struct {
	Device
	at time.Time
}

// Lines is the table of Batch: that of Devices with a column of its own for
// the time.
func Lines(columns []string) table.Table[Device] { // for help and completion
	t := Devices()
	t.Columns = append([]table.Column[Device]{{Name: "TIME", Key: "time", Help: "when the device was looked at",
		Value: func(Device) table.Value { return table.Null() }}}, t.Columns...)
	if columns != nil {
		t.Default = columns
	}
	return t
}

func lines(columns []string) table.Table[timed] {
	of := Lines(columns)
	t := table.Table[timed]{Plural: of.Plural, Default: of.Default}
	for _, c := range of.Columns {
		value := func(r timed) table.Value { return c.Value(r.Device) }
		if c.Key == "time" {
			value = func(r timed) table.Value { return table.Custom(r.at.Format("15:04:05"), r.at.Format(time.RFC3339Nano)) }
		}
		t.Columns = append(t.Columns, table.Column[timed]{Name: c.Name, Key: c.Key, Help: c.Help, Right: c.Right, Value: value})
	}
	return t
}

func printSample(w io.Writer, t table.Table[timed], s Snapshot, o BatchOptions, later bool) error {
	var rows []timed
	for _, d := range s.Devices {
		if len(o.Only) == 0 || slices.Contains(o.Only, d.ID) {
			rows = append(rows, timed{d, s.Time})
		}
	}
	if o.Table.Format == table.JSON {
		rows, err := t.Sort(rows, o.Table.Sort)
		for _, row := range rows {
			if err = t.WriteLine(w, row, o.Table); err != nil {
				break
			}
		}
		return err
	}
	if o.Table.Format == table.Text && !o.Table.NoHeadings {
		if err := printTitle(w, s, o.Title, later); err != nil {
			return err
		}
	}
	return t.Write(w, rows, o.Table)
}

// printTitle parts a sample from the one before.
func printTitle(w io.Writer, s Snapshot, title, later bool) error {
	text := ""
	if later {
		text = "\n"
	}
	if title {
		m := Model{snapshot: s}
		text += "ublk top   "
		for i, part := range m.counts() {
			if i > 0 {
				text += ", "
			}
			text += part
		}
		text += "   " + s.Time.Format("15:04:05") + "\n"
	}
	_, err := io.WriteString(w, text)
	return err
}

// asciiWriter replaces the characters that the screen would replace.
type asciiWriter struct{ w io.Writer }

func (a asciiWriter) Write(p []byte) (int, error) {
	if _, err := io.WriteString(a.w, style{ascii: true}.glyphs(string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}
