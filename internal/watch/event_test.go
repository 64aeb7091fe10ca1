package watch

import (
	"testing"
	"time"
)

func TestEventString(t *testing.T) {
	at := time.Date(2026, 11, 22, 14, 2, 11, 123e6, time.UTC)
	noticed, live := at.Add(-57*time.Millisecond), at
	three := 3
	for _, tt := range []struct {
		event Event
		want  string
	}{
		{Event{Kind: Ready, ID: -1, Text: "4 devices"}, "ready: 4 devices"},
		{Event{Kind: Watching, ID: 0, State: "DEAD"}, "device 0: watching; DEAD"},
		{Event{Kind: Watching, ID: 1, Name: "disk-1", PID: 7}, "device 1 (disk-1): watching server 7"},
		{Event{Kind: Died, ID: 1, PID: 7, How: "SIGKILL", InFlight: &three, State: "QUIESCED"}, "device 1: server 7 died (SIGKILL), 3 requests in flight; QUIESCED"},
		{Event{Kind: Died, ID: 1, PID: 7, State: "FAIL_IO", Panic: "panic: oh"}, "device 1: server 7 died; FAIL_IO: panic: oh"},
		{Event{Kind: Lost, ID: 1, PID: 7, How: "SIGBUS"}, "device 1: server 7 died (SIGBUS); there is no recovery, the disk is gone"},
		{Event{Kind: Left, ID: 1, PID: 7, State: "QUIESCED"}, "device 1: server 7 has left, as it was asked to; QUIESCED"},
		{Event{Kind: Recovered, ID: 1, PID: 8, Noticed: &noticed, Live: &live, Kernel: 41, Ours: 16},
			"device 1: LIVE again, server 8, after 57.0 ms (the kernel's 41.0, ours 16.0)"},
		{Event{Kind: Failed, ID: 1, Retry: 2, Text: "no\nsuch file"}, "device 1: not recovered, next attempt in 2s: no; such file"},
		{Event{Kind: BackOff, ID: 1, Crashes: 11, Retry: 1}, "device 1: crashed 11 times in a row; next attempt in 1s"},
		{Event{Kind: Stopped, ID: 1, Text: "by order"}, "device 1: stopped, its I/O fails now: by order"},
		{Event{Kind: Gone, ID: 1}, "device 1: deleted"},
		{Event{Kind: Hung, ID: 1, Text: "x"}, "device 1: hung: x"},
	} {
		tt.event.Time = at
		if got := tt.event.String(); got != "2026-11-22 14:02:11.123 "+tt.want {
			t.Errorf("%s\nwant %s", got, tt.want)
		}
	}
}
