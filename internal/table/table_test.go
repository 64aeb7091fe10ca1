package table

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"
	"unicode"
)

type device struct {
	id     int
	name   string
	size   uint64
	server int // 0 is none
	flags  []string
	ro     bool
}

func devices() Table[device] {
	return Table[device]{
		Plural: "ublkdevices",
		Columns: []Column[device]{
			{Name: "ID", Key: "id", Help: "device number", Right: true, Value: func(d device) Value { return Int(d.id) }},
			{Name: "NAME", Key: "name", Help: "name given by add --name", Value: func(d device) Value { return String(d.name) }},
			{Name: "SIZE", Key: "size", Help: "size", Right: true, Value: func(d device) Value { return Size(d.size) }},
			{Name: "SERVER", Key: "server_pid", Help: "process", Right: true, Value: func(d device) Value {
				if d.server == 0 {
					return Null()
				}
				return Int(d.server)
			}},
			{Name: "FLAGS", Key: "flags", Help: "flags by name", Value: func(d device) Value { return List(d.flags) }},
			{Name: "RO", Key: "read_only", Help: "read-only", Right: true, Value: func(d device) Value { return Bool(d.ro) }},
		},
		Default: []string{"ID", "NAME", "SIZE", "SERVER"},
		JSON:    []string{"ID", "NAME", "SIZE", "SERVER", "FLAGS"},
	}
}

var rows = []device{
	{id: 0, name: "db", size: 3 << 29, server: 4411, flags: []string{"UBLK_F_A", "UBLK_F_B"}},
	{id: 12, name: "a b\x1b[2J", size: 512, ro: true},
	{id: 3, size: 1 << 40, server: 99},
}

func TestWrite(t *testing.T) {
	for _, test := range []struct {
		name    string
		rows    []device
		options Options
		want    string
	}{
		{"default", rows, Options{}, `
ID NAME       SIZE SERVER
 0 db         1.5G   4411
12 a b\x1b[2J 512B      -
 3 -            1T     99
`},
		{"no rows", nil, Options{}, "\nID NAME SIZE SERVER\n"},
		{"no rows no headings", nil, Options{NoHeadings: true}, "\n"},
		{"chosen, lower case, by key, twice", rows, Options{Output: "server_pid,id,ID"}, `
SERVER ID
  4411  0
     - 12
    99  3
`},
		{"added", rows[:1], Options{Output: "+ro,flags", NoHeadings: true}, "\n0 db 1.5G 4411 0 UBLK_F_A,UBLK_F_B\n"},
		{"all, bytes", rows[:1], Options{All: true, Output: "ID", Bytes: true}, `
ID NAME       SIZE SERVER FLAGS             RO
 0 db   1610612736   4411 UBLK_F_A,UBLK_F_B  0
`},
		{"left-aligned last column is not padded", rows[1:], Options{Output: "id,name"}, `
ID NAME
12 a b\x1b[2J
 3 -
`},
		{"raw", rows, Options{Format: Raw, Output: "+FLAGS"}, `
ID NAME SIZE SERVER FLAGS
0 db 1.5G 4411 UBLK_F_A,UBLK_F_B
12 a\x20b\x1b[2J 512B - -
3 - 1T 99 -
`},
		{"raw without headings", rows[2:], Options{Format: Raw, NoHeadings: true, Bytes: true}, "\n3 - 1099511627776 99\n"},
		{"pairs", rows[1:], Options{Format: Pairs, Output: "id,name,server,ro"}, `
ID="12" NAME="a b\x1b[2J" SERVER="" RO="1"
ID="3" NAME="" SERVER="99" RO="0"
`},
		{"sorted by a column that is not shown", rows, Options{Output: "id", NoHeadings: true, Sort: "size"}, "\n12\n 0\n 3\n"},
		{"unknown last", rows, Options{Output: "id", NoHeadings: true, Sort: "Server"}, "\n 3\n 0\n12\n"},
		{"json", rows[1:2], Options{Format: JSON}, `
{
   "ublkdevices": [
      {
         "id": 12,
         "name": "a b\u001b[2J",
         "size": 512,
         "server_pid": null,
         "flags": []
      }
   ]
}
`},
		{"json added", rows[1:2], Options{Format: JSON, Output: "ID,RO"}, `
{
   "ublkdevices": [
      {
         "id": 12,
         "read_only": true
      }
   ]
}
`},
		{"json empty", nil, Options{Format: JSON}, "\n{\n   \"ublkdevices\": []\n}\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out strings.Builder
			if err := devices().Write(&out, test.rows, test.options); err != nil {
				t.Fatal(err)
			}
			if got := "\n" + out.String(); got != test.want {
				t.Errorf("got %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestWriteLine(t *testing.T) {
	var out strings.Builder
	if err := devices().WriteLine(&out, rows[0], Options{Output: "+RO"}); err != nil {
		t.Fatal(err)
	}
	want := `{"id":0,"name":"db","size":1610612736,"server_pid":4411,"flags":["UBLK_F_A","UBLK_F_B"],"read_only":false}` + "\n"
	if out.String() != want {
		t.Errorf("got %s want %s", out.String(), want)
	}
}

func TestJSONDefaultIsEverything(t *testing.T) {
	table := devices()
	table.JSON = nil
	columns, err := table.Select(Options{Format: JSON})
	if err != nil || len(columns) != len(table.Columns) {
		t.Errorf("%d columns, %v; want all %d", len(columns), err, len(table.Columns))
	}
}

func TestUnknownColumn(t *testing.T) {
	for typed, nearest := range map[string]string{
		"SERVR": "SERVER", "sevrer": "SERVER", "serv": "SERVER", "sizes": "SIZE", "nmae": "NAME", "nam": "NAME", "XYZZY": "", "": "", "Q": "",
	} {
		_, err := devices().Column(typed)
		var unknown *UnknownColumnError
		if !errors.As(err, &unknown) {
			t.Fatalf("Column(%q): %v", typed, err)
		}
		if unknown.Nearest != nearest {
			t.Errorf("nearest to %q is %q, want %q", typed, unknown.Nearest, nearest)
		}
	}
	for _, options := range []Options{{Output: "ID,SERVR"}, {Sort: "servr"}, {Output: "ID,"}} {
		err := devices().Write(&strings.Builder{}, rows, options)
		if err == nil || !strings.Contains(err.Error(), "columns are ID,NAME,SIZE,SERVER,FLAGS,RO") {
			t.Errorf("%+v: %v", options, err)
		}
	}
	_, err := devices().Column("SERVR")
	if want := `unknown column "SERVR" (did you mean SERVER?)`; !strings.HasPrefix(err.Error(), want) {
		t.Errorf("%v does not start with %s", err, want)
	}
}

func TestSortIsStableAndCopies(t *testing.T) {
	type pair struct{ key, order int }
	table := Table[pair]{Columns: []Column[pair]{{Name: "K", Key: "k", Value: func(p pair) Value { return Int(p.key) }}}}
	given := []pair{{2, 0}, {1, 1}, {2, 2}, {1, 3}, {10, 4}}
	sorted, err := table.Sort(given, "k")
	if err != nil {
		t.Fatal(err)
	}
	for i, order := range []int{1, 3, 0, 2, 4} {
		if sorted[i].order != order {
			t.Fatalf("sorted %v", sorted)
		}
	}
	if given[0].order != 0 {
		t.Error("the rows given were reordered")
	}
}

func TestComplete(t *testing.T) {
	for _, test := range []struct {
		typed string
		list  bool
		want  string
	}{
		{"S", true, "SIZE\tsize|SERVER\tprocess"},
		{"ID,s", true, "ID,SIZE\tsize|ID,SERVER\tprocess"},
		{"+SIZE,S", true, "+SIZE,SERVER\tprocess"},
		{"ID,s", false, ""},
		{"se", false, "SERVER\tprocess"},
	} {
		if got := strings.Join(devices().Complete(test.typed, test.list), "|"); got != test.want {
			t.Errorf("Complete(%q, %v) = %q, want %q", test.typed, test.list, got, test.want)
		}
	}
}

func TestHelp(t *testing.T) {
	want := "  ID      device number\n  NAME    name given by add --name\n"
	if got := devices().Help(); !strings.HasPrefix(got, want) {
		t.Errorf("got\n%s", got)
	}
}

func TestCheck(t *testing.T) {
	if err := devices().Check(); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*Table[device]){
		"not snake_case":  func(t *Table[device]) { t.Columns[0].Key = "Id" },
		"twice":           func(t *Table[device]) { t.Columns[0].Key = "name" },
		"no help":         func(t *Table[device]) { t.Columns[0].Help = "" },
		"cannot be typed": func(t *Table[device]) { t.Columns[0].Name = "A,B" },
		"default columns": func(t *Table[device]) { t.Default = []string{"NOPE"} },
	} {
		table := devices()
		change(&table)
		if err := table.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}

func TestValues(t *testing.T) {
	for _, test := range []struct {
		value             Value
		text, bytes, json string
	}{
		{Value{}, "-", "-", "null"},
		{String(""), "-", "-", `""`},
		{String("a<b"), "a<b", "a<b", `"a\u003cb"`}, // MarshalJSON alone is encoding/json's; documents say a<b
		{Int(-5), "-5", "-5", "-5"},
		{Uint(uint64(math.MaxUint64)), "18446744073709551615", "18446744073709551615", "18446744073709551615"},
		{Size(3 << 29), "1.5G", "1610612736", "1610612736"},
		{Count(182_000), "182k", "182k", "182000"},
		{Count(math.NaN()), "-", "-", "null"},
		{Rate(711 << 20), "711M", "745537536", "745537536"},
		{Rate(math.Inf(1)), "-", "-", "null"},
		{Float(1.44, 1), "1.4", "1.4", "1.44"},
		{Bool(true), "1", "1", "true"},
		{List(nil), "-", "-", "[]"},
		{List([]string{"a", "b"}), "a,b", "a,b", `["a","b"]`},
		{Latency(84 * time.Microsecond), "84µ", "84µ", "84000"},
		{Age(252 * time.Second), "4m12s", "4m12s", "252"},
		{Custom("2 cpus", map[string]int{"n": 2}), "2 cpus", "2 cpus", `{"n":2}`},
	} {
		encoded, err := json.Marshal(test.value)
		if err != nil {
			t.Fatal(err)
		}
		if got := test.value.Text(false); got != test.text {
			t.Errorf("text %q, want %q", got, test.text)
		}
		if got := test.value.Text(true); got != test.bytes {
			t.Errorf("bytes %q, want %q", got, test.bytes)
		}
		if string(encoded) != test.json {
			t.Errorf("json %s, want %s", encoded, test.json)
		}
	}
}

func TestCompare(t *testing.T) {
	ascending := [][]Value{
		{Int(-1), Int(9), Int(10), Null()},
		{Uint(uint64(1)), Uint(uint64(math.MaxUint64)), Null()},
		{Size(999), Size(1 << 20)},
		{Float(0.5, 0), Float(1.5, 0)},
		{String("10"), String("9"), String("a")},
		{Bool(false), Bool(true), Null()},
		{List(nil), List([]string{"a"}), List([]string{"a", "b"}), List([]string{"b"})},
		{Custom("a", 2), Custom("b", 1)},
		{Int(1), Float(2, 0)},
	}
	for _, values := range ascending {
		for i := range values {
			for j := range values {
				if got, want := Compare(values[i], values[j]), Compare(Int(i), Int(j)); got != want {
					t.Errorf("Compare(%v, %v) = %d, want %d", values[i], values[j], got, want)
				}
			}
		}
	}
}

func TestEscape(t *testing.T) {
	for text, want := range map[string]string{
		"plain text":   "plain text",
		"grün µ▪":      "grün µ▪",
		"a\tb\n":       `a\x09b\x0a`,
		"\x1b]0;x\x07": `\x1b]0;x\x07`,
		"\x7f":         `\x7f`,
		"\u009b2J":     `\xc2\x9b2J`,
		"\u202etxt":    `\xe2\x80\xaetxt`,
		"\xff\xfe":     `\xff\xfe`,
		`C:\x41`:       `C:\x5cx41`,
		`a\b`:          `a\b`,
	} {
		if got := Escape(text); got != want {
			t.Errorf("Escape(%q) = %s, want %s", text, got, want)
		}
	}
}

func TestPairsCannotBreakOut(t *testing.T) {
	var out strings.Builder
	evil := device{name: "\" $(reboot) `reboot` \\"}
	if err := devices().Write(&out, []device{evil}, Options{Format: Pairs, Output: "name"}); err != nil {
		t.Fatal(err)
	}
	if want := `NAME="\x22 \x24(reboot) \x60reboot\x60 \x5c"` + "\n"; out.String() != want {
		t.Errorf("got %s want %s", out.String(), want)
	}
}

func TestVariable(t *testing.T) {
	for name, want := range map[string]string{"READ/s": "READ_S", "ID": "ID", "CPU%": "CPU_"} {
		if got := variable(name); got != want {
			t.Errorf("variable(%q) = %q, want %q", name, got, want)
		}
	}
}

func FuzzOutput(f *testing.F) {
	for _, seed := range []string{"", "a b", "\x1b[2J", "\xff", "\u009b", `\x41`, "\"$`\\", "\u2028"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		for _, format := range []Format{Text, JSON, Raw, Pairs} {
			var out strings.Builder
			if err := devices().Write(&out, []device{{name: name}}, Options{Format: format, NoHeadings: true}); err != nil {
				t.Fatal(err)
			}
			text := out.String()
			for _, r := range text {
				if r != '\n' && unicode.IsControl(r) {
					t.Fatalf("format %d lets %U through: %q", format, r, text)
				}
			}
			if lines := strings.Count(text, "\n"); format != JSON && lines != 1 {
				t.Fatalf("format %d made %d lines of one row", format, lines)
			}
			if fields := strings.Count(text, " "); format == Raw && fields != 3 {
				t.Fatalf("raw has %d spaces: %q", fields, text)
			}
			if format == JSON && !json.Valid([]byte(text)) {
				t.Fatalf("not JSON: %s", text)
			}
		}
	})
}
