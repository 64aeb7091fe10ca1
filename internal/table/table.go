// Package table prints rows in columns that the user chooses. One table of
// columns feeds the heading, -o, --output-all, JSON, --raw, --pairs, --sort,
// completion and the manual, the way lsblk's does.
package table

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Column is one fact about a row.
type Column[T any] struct {
	Name  string // heading, and what -o takes in either case: SERVER
	Key   string // field in JSON, lower snake_case: server_pid
	Help  string // one line, lower case, no full stop
	Right bool   // aligned to the right, as numbers are
	Value func(T) Value
}

// Table is a set of columns. Tables are read only once built and can be shared.
type Table[T any] struct {
	Plural  string      // names the array in JSON: ublkdevices
	Columns []Column[T] // all there are, in the order of --output-all
	Default []string    // names of the columns printed without -o
	JSON    []string    // names of the columns in JSON without -o; nil means every column
}

// Format is the shape of the output.
type Format int

// The formats. Text is for people; the others are for scripts.
const (
	Text  Format = iota
	JSON         // {"ublkdevices": [{…}]}
	Raw          // one space between cells, spaces in cells as \x20
	Pairs        // NAME="value" NAME="value"
)

// Options is what the user chose on the command line.
type Options struct {
	Output     string // -o: COL,… replaces the default columns, +COL,… adds to them
	All        bool   // --output-all; wins over Output
	Format     Format // -J, --raw, -P
	NoHeadings bool   // --noheadings, for Text and Raw
	Bytes      bool   // -b: sizes and rates exact, in bytes
	Sort       string // -s: a column, shown or not; "" keeps the order of the rows
}

// UnknownColumnError says that a table has no such column. It is a usage error.
type UnknownColumnError struct {
	Name    string   // as typed
	Nearest string   // what was probably meant; "" if nothing is near
	Valid   []string // the names there are
}

func (e *UnknownColumnError) Error() string {
	hint := ""
	if e.Nearest != "" {
		hint = " (did you mean " + e.Nearest + "?)"
	}
	return fmt.Sprintf("unknown column %q%s; columns are %s", e.Name, hint, strings.Join(e.Valid, ","))
}

// Column returns the column of that name or key, in either case.
func (t Table[T]) Column(name string) (Column[T], error) {
	for _, column := range t.Columns {
		if strings.EqualFold(column.Name, name) || strings.EqualFold(column.Key, name) {
			return column, nil
		}
	}
	return Column[T]{}, &UnknownColumnError{Name: name, Nearest: Nearest(name, t.names()), Valid: t.names()}
}

func (t Table[T]) names() []string {
	names := make([]string, len(t.Columns))
	for i, column := range t.Columns {
		names[i] = column.Name
	}
	return names
}

// Select returns the columns that the options ask for, each once.
func (t Table[T]) Select(o Options) ([]Column[T], error) {
	if o.All {
		return t.Columns, nil
	}
	chosen, adds := strings.CutPrefix(o.Output, "+")
	names := []string{}
	if adds || o.Output == "" {
		names = append(names, t.defaults(o.Format)...)
	}
	if o.Output != "" {
		names = append(names, strings.Split(chosen, ",")...)
	}
	var columns []Column[T]
	for _, name := range names {
		column, err := t.Column(strings.TrimSpace(name))
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(columns, func(c Column[T]) bool { return c.Key == column.Key }) {
			columns = append(columns, column)
		}
	}
	return columns, nil
}

func (t Table[T]) defaults(format Format) []string {
	switch {
	case format != JSON:
		return t.Default
	case t.JSON == nil:
		return t.names()
	}
	return t.JSON
}

// Sort returns the rows in the order of a column's values; equal rows keep
// their order, unknown values come last. "" returns the rows as they are.
func (t Table[T]) Sort(rows []T, name string) ([]T, error) {
	if name == "" {
		return rows, nil
	}
	column, err := t.Column(name)
	if err != nil {
		return nil, err
	}
	sorted := slices.Clone(rows)
	slices.SortStableFunc(sorted, func(a, b T) int { return Compare(column.Value(a), column.Value(b)) })
	return sorted, nil
}

// Help lists the columns, one a line, for --help.
func (t Table[T]) Help() string {
	width := 0
	for _, column := range t.Columns {
		width = max(width, cells(column.Name))
	}
	var help strings.Builder
	for _, column := range t.Columns {
		fmt.Fprintf(&help, "  %s  %s\n", pad(column.Name, width, false), column.Help)
	}
	return help.String()
}

// Complete returns the ways to go on with a half-typed value of -o or --sort, each
// with a tab and its help, as shell completions are given. With list, the value
// is a list of columns, and those already in it are not offered again.
func (t Table[T]) Complete(typed string, list bool) []string {
	before, word := "", typed
	if list {
		if cut := strings.LastIndexAny(typed, ",+") + 1; cut > 0 {
			before, word = typed[:cut], typed[cut:]
		}
	}
	given := strings.Split(strings.ToUpper(strings.TrimPrefix(before, "+")), ",")
	var completions []string
	for _, column := range t.Columns {
		upper := strings.ToUpper(column.Name)
		if strings.HasPrefix(upper, strings.ToUpper(word)) && !slices.Contains(given, upper) {
			completions = append(completions, before+column.Name+"\t"+column.Help)
		}
	}
	return completions
}

// Check returns an error for a table that was put together wrongly: names or
// keys twice, keys not in snake_case, no help, default columns that are not there.
// It is for the tests of those who build tables.
func (t Table[T]) Check() error {
	snake := regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)
	seen := map[string]bool{}
	for _, column := range t.Columns {
		name := strings.ToLower(column.Name)
		switch {
		case name == "" || strings.ContainsAny(name, ", +\t\n"):
			return fmt.Errorf("column name %q cannot be typed in a list", column.Name)
		case !snake.MatchString(column.Key):
			return fmt.Errorf("column %s: key %q is not snake_case", column.Name, column.Key)
		case column.Help == "" || column.Value == nil:
			return fmt.Errorf("column %s has no help or no value", column.Name)
		case seen[name] || seen[column.Key]:
			return fmt.Errorf("column %s or its key %s is there twice", column.Name, column.Key)
		}
		seen[name], seen[column.Key] = true, true
	}
	for _, name := range slices.Concat(t.Default, t.JSON) {
		if _, err := t.Column(name); err != nil {
			return fmt.Errorf("default columns: %w", err)
		}
	}
	return nil
}
