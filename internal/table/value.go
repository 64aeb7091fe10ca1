package table

import (
	"cmp"
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"ublk/internal/units"
)

// Value is what one cell holds: the same thing for people, for scripts and for
// JSON. The zero Value is Null.
type Value struct {
	json  any    // nil, string, int64, uint64, float64, bool, []string, or of Custom
	text  string // for people, not yet escaped
	exact string // instead of text under --bytes; "" where that makes no difference
}

// Null is an unknown value: "-" for people, null in JSON, nothing in pairs.
func Null() Value { return Value{} }

// String is a text. An empty one prints as "-" so that columns can be counted.
func String(s string) Value { return Value{json: s, text: s} }

// Int is a whole number.
func Int[N int | int32 | int64](n N) Value {
	return Value{json: int64(n), text: strconv.FormatInt(int64(n), 10)}
}

// Uint is a whole number that can use all of its 64 bits.
func Uint[N uint | uint16 | uint32 | uint64](n N) Value {
	return Value{json: uint64(n), text: strconv.FormatUint(uint64(n), 10)}
}

// Size is a number of bytes: 1.5G for people, exact under --bytes, an integer in JSON.
func Size(bytes uint64) Value {
	return Value{json: bytes, text: units.FormatSize(bytes), exact: strconv.FormatUint(bytes, 10)}
}

// Count is a count or rate of things: 182k for people, a number in JSON.
func Count(n float64) Value { return number(n, units.FormatCount(n), "") }

// Rate is bytes a second: 711M for people, a whole number under --bytes, a number in JSON.
func Rate(bytes float64) Value {
	return number(bytes, units.FormatRate(bytes), strconv.FormatFloat(math.Round(bytes), 'f', 0, 64))
}

// Float is a number with a fixed count of decimals for people, all of it in JSON.
func Float(n float64, decimals int) Value {
	return number(n, strconv.FormatFloat(n, 'f', decimals, 64), "")
}

// number is Null for what JSON cannot say.
func number(n float64, text, exact string) Value {
	if math.IsNaN(n) || math.IsInf(n, 0) {
		return Null()
	}
	return Value{json: n, text: text, exact: exact}
}

// Bool is 1 or 0 for people, as in lsblk, and true or false in JSON.
func Bool(b bool) Value {
	if b {
		return Value{json: true, text: "1"}
	}
	return Value{json: false, text: "0"}
}

// List is a list of words: joined by commas for people, an array in JSON (never
// null: no words is an empty array).
func List(words []string) Value {
	return Value{json: append([]string{}, words...), text: strings.Join(words, ",")}
}

// Latency is a short time: 84µ for people, integer nanoseconds in JSON.
func Latency(d time.Duration) Value { return Value{json: int64(d), text: units.FormatLatency(d)} }

// Age is how long something has lasted: 4m12s for people, seconds in JSON.
func Age(d time.Duration) Value { return Value{json: d.Seconds(), text: units.FormatAge(d)} }

// Custom shows text to people and data, anything that encoding/json takes, in
// JSON. It sorts by text. It is for the cells that say less than JSON does.
func Custom(text string, data any) Value { return Value{json: data, text: text} }

// IsNull says whether the value is unknown.
func (v Value) IsNull() bool { return v.json == nil }

// Text returns the value for people, with nothing in it that could upset a
// terminal, and "-" where there is none. With bytes, sizes and rates are exact.
func (v Value) Text(bytes bool) string {
	text := Escape(v.plain(bytes))
	if text == "" {
		return "-"
	}
	return text
}

// plain is the value for people, "" for Null, with whatever characters came.
func (v Value) plain(bytes bool) string {
	switch {
	case v.IsNull():
		return ""
	case bytes && v.exact != "":
		return v.exact
	}
	return v.text
}

// MarshalJSON returns the value for scripts.
func (v Value) MarshalJSON() ([]byte, error) { return json.Marshal(v.json) }

// Compare orders two values of one column: numbers by size, texts by bytes,
// false before true, and Null after everything.
func Compare(a, b Value) int {
	if a.IsNull() || b.IsNull() {
		return compareBool(a.IsNull(), b.IsNull())
	}
	switch x := a.json.(type) {
	case int64:
		if y, ok := b.json.(int64); ok {
			return cmp.Compare(x, y)
		}
	case uint64:
		if y, ok := b.json.(uint64); ok {
			return cmp.Compare(x, y)
		}
	case float64:
		if y, ok := b.json.(float64); ok {
			return cmp.Compare(x, y)
		}
	case bool:
		if y, ok := b.json.(bool); ok {
			return compareBool(x, y)
		}
	case []string:
		if y, ok := b.json.([]string); ok {
			return slices.Compare(x, y)
		}
	}
	return cmp.Compare(a.text, b.text)
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}
