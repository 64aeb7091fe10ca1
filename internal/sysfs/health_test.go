package sysfs

import "testing"

func TestDerive(t *testing.T) {
	live := Sample{State: StateLive, HasDisk: true, DiskSeq: 1, Server: 'S'}
	with := func(change func(*Sample)) Sample {
		s := live
		change(&s)
		return s
	}
	inDriver := with(func(s *Sample) { s.Stat.InFlight, s.Inflight = 2, Inflight{Reads: 2} })
	moved := with(func(s *Sample) { s.Stat.InFlight, s.Inflight, s.Stat.Read.Ops = 2, Inflight{Reads: 2}, 1 })
	kept := with(func(s *Sample) { s.Stat.InFlight, s.Requeued = 2, true })
	kept612 := with(func(s *Sample) { s.Stat.InFlight = 2 })
	uninterruptible := with(func(s *Sample) { s.Server = 'D' })
	for _, test := range []struct {
		name      string
		prev, cur Sample
		want      Health
	}{
		{"idle", live, live, Healthy},
		{"first look at an idle device", Sample{}, live, Healthy},
		{"requests move", inDriver, moved, Healthy},
		{"requests came", live, inDriver, Healthy},
		{"first look at a busy device", Sample{}, inDriver, Healthy},
		{"no answer", inDriver, inDriver, Stalled},
		{"no answer, but of an earlier disk", inDriver, with(func(s *Sample) { *s = inDriver; s.DiskSeq = 2 }), Healthy},
		{"no answer, but before recovery", with(func(s *Sample) { *s = inDriver; s.State = StateQuiesced }), inDriver, Healthy},
		{"server stopped by a signal", live, with(func(s *Sample) { s.Server = 'T' }), Stalled},
		{"server under a debugger", live, with(func(s *Sample) { s.Server = 't' }), Stalled},
		{"server gone", live, with(func(s *Sample) { s.Server = 'X' }), Stalled},
		{"server unknown", live, with(func(s *Sample) { s.Server = 0 }), Healthy},
		{"server waits for its disk", live, uninterruptible, Healthy},
		{"server waits and waits", uninterruptible, uninterruptible, Stalled},
		{"kept back", kept, kept, Parked},
		{"kept back on 6.12", kept612, kept612, Parked},
		{"kept back for a moment", live, kept, Healthy},
		{"kept back, server gone", with(func(s *Sample) { *s = kept; s.Server = 'X' }), with(func(s *Sample) { *s = kept; s.Server = 'X' }), Parked},
		{"statistics off", with(func(s *Sample) { s.Requeued = true }), with(func(s *Sample) { s.Requeued = true }), Parked},
		{"stopping: no queues", live, with(func(s *Sample) { s.NoQueues = true }), Wedged},
		{"stopping: no disk", live, with(func(s *Sample) { s.HasDisk = false }), Wedged},
		{"stopping: quiesced queue", live, with(func(s *Sample) { s.QueueFlags = []string{"SAME_COMP", "QUIESCED"} }), Wedged},
		{"stopping: dying queue", live, with(func(s *Sample) { s.QueueFlags = []string{"DYING"} }), Wedged},
		{"no server", live, Sample{State: StateQuiesced, HasDisk: true}, Waiting},
		{"6.12 has the flag while it waits", live, Sample{State: StateQuiesced, HasDisk: true, QueueFlags: []string{"QUIESCED"}}, Waiting},
		{"failing", live, Sample{State: StateFailIO, HasDisk: true}, Failing},
		{"dead", live, Sample{State: StateDead}, Dead},
		{"state unknown", live, Sample{State: StateUnknown, HasDisk: true}, Unknown},
		{"state from the future", live, Sample{State: 9}, Unknown},
	} {
		if got := Derive(test.prev, test.cur); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

func TestSampleBusy(t *testing.T) {
	for _, test := range []struct {
		sample Sample
		want   bool
	}{
		{Sample{State: StateLive}, false},
		{Sample{State: StateLive, Stat: Stat{InFlight: 1}}, true},
		{Sample{State: StateLive, Inflight: Inflight{Writes: 1}}, true},
		{Sample{State: StateLive, Requeued: true}, true},
		{Sample{State: StateQuiesced, Stat: Stat{InFlight: 1}}, false},
	} {
		if got := test.sample.Busy(); got != test.want {
			t.Errorf("%+v: %v", test.sample, got)
		}
	}
}
