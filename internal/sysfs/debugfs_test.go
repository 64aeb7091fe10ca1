package sysfs

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestParseBitmap(t *testing.T) {
	for _, test := range []struct {
		text string
		want []int
	}{
		{"", nil},
		{"00000000: 0000\n", nil},
		{"00000000: f000\n", []int{4, 5, 6, 7}}, // depth 16
		{"00000000: 0b\n", []int{0, 1, 3}},      // depth 4
		{"00000000: 0100 0000 0000 0080 01\n", []int{0, 63, 64}},
		{"00000000: 0000 0000 0000 0000 0000 0000 0000 0000\n00000010: 0100 0000 0000 0000 0000 0000 0000 0080\n", []int{128, 255}},
	} {
		set, err := parseBitmap(test.text)
		if err != nil || !slices.Equal(slices.Collect(set.All()), test.want) || set.Count() != len(test.want) {
			t.Errorf("parseBitmap(%q) = %v, %v; want %v", test.text, slices.Collect(set.All()), err, test.want)
		}
		for tag := range 300 {
			if set.Has(tag) != slices.Contains(test.want, tag) {
				t.Errorf("%q: Has(%d) = %v", test.text, tag, set.Has(tag))
			}
		}
	}
	for _, bad := range []string{"f000", "00000010: f000", "00000000: f", "00000000: gg", "00000000: 00\n00000000: 00", "0: 123"} {
		if set, err := parseBitmap(bad); err == nil {
			t.Errorf("parseBitmap(%q) = %v", bad, set)
		}
	}
	if (TagSet{1}).Has(-1) {
		t.Error("a set has tag -1")
	}
}

func TestTagSetAllStops(t *testing.T) {
	for tag := range (TagSet{0b1110}).All() {
		if tag == 2 {
			return
		}
	}
	t.Error("the loop ran on")
}

const requestText = `00000000c5f48ac4 {.op=READ, .cmd_flags=SYNC, .rq_flags=IO_STAT|STATS, .state=in_flight, .tag=5, .internal_tag=-1}
000000008445a5c6 {.op=WRITE, .cmd_flags=SYNC|IDLE, .rq_flags=STARTED|SCHED_TAGS|USE_SCHED|IO_STAT, .state=in_flight, .tag=4, .internal_tag=63}
`

func TestParseRequests(t *testing.T) {
	got, err := parseRequests(requestText)
	want := []Request{
		{Pointer: 0xc5f48ac4, Op: "READ", Flags: []string{"SYNC"}, RQFlags: []string{"IO_STAT", "STATS"}, State: "in_flight", Tag: 5, InternalTag: -1},
		{Pointer: 0x8445a5c6, Op: "WRITE", Flags: []string{"SYNC", "IDLE"}, RQFlags: []string{"STARTED", "SCHED_TAGS", "USE_SCHED", "IO_STAT"},
			State: "in_flight", Tag: 4, InternalTag: 63},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	for line, want := range map[string]Request{
		"(____ptrval____) {.op=FLUSH, .cmd_flags=, .rq_flags=, .state=idle, .tag=-1, .internal_tag=0}": {Op: "FLUSH", State: "idle", Tag: -1},
		"0000000012345678 {.op=37, .cmd_flags=SYNC|29, .rq_flags=31, .state=complete, .tag=0, .internal_tag=-1, .driver=x y}": {
			Pointer: 0x12345678, Op: "37", Flags: []string{"SYNC", "29"}, RQFlags: []string{"31"}, State: "complete", InternalTag: -1},
	} {
		if got, err := parseRequests(line); err != nil || len(got) != 1 || !reflect.DeepEqual(got[0], want) {
			t.Errorf("%s: got %+v, %v", line, got, err)
		}
	}
}

func TestParseRequestsKeepsTheGood(t *testing.T) {
	for _, bad := range []string{
		"garbage", "00000000c5f48ac4 {.op=READ, .cmd_fl", "xyz {.op=READ, .state=idle}", "0 {.op=READ, .state=idle, .tag=x}", "0 {.tag=1}",
	} {
		got, err := parseRequests(bad + "\n" + requestText)
		if err == nil || len(got) != 2 || !strings.Contains(err.Error(), bad) {
			t.Errorf("%q: got %d requests, %v", bad, len(got), err)
		}
	}
}

func FuzzParseRequests(f *testing.F) {
	f.Add(requestText)
	f.Add("0 {.op=, .state=}")
	f.Fuzz(func(t *testing.T, text string) {
		requests, _ := parseRequests(text)
		for _, request := range requests {
			if request.Op == "" || request.State == "" {
				t.Fatalf("%q gave %+v", text, request)
			}
		}
	})
}

func FuzzParseBitmap(f *testing.F) {
	f.Add("00000000: f000 0b\n")
	f.Add("00000000: 0000 0000 0000 0000 0000 0000 0000 0000\n00000010: 01")
	f.Fuzz(func(t *testing.T, text string) {
		set, err := parseBitmap(text)
		if err == nil && len(set) > len(text)/2 {
			t.Fatalf("%d words of %d bytes", len(set), len(text))
		}
	})
}
