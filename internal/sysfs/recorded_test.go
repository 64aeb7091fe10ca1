package sysfs

import (
	"reflect"
	"slices"
	"testing"
)

// The folders under testdata are what the two kernels showed in TestLabHeld, less
// the files that nobody reads: lab/run --env UBLK_RECORD=/results …

var kernels = []string{"6.12", "7.3"}

func recorded(kernel, moment string) *FS { return New("testdata/" + kernel + "/" + moment) }

func TestRecordedDisk(t *testing.T) {
	for _, kernel := range kernels {
		f := recorded(kernel, "held")
		got, err := f.Disk(0)
		want := Disk{ID: 0, Name: "ublkb0", Dev: Dev{259, 0}, Size: testDiskSize, DiskSeq: got.DiskSeq, Limits: Limits{
			LogicalBlockSize: 512, PhysicalBlockSize: 4096, MinIO: 4096, OptimalIO: 65536, MaxSectors: testMaxIO, MaxHWSectors: testMaxIO,
			MaxSegments: 65535, DMAAlignment: got.Limits.DMAAlignment, Scheduler: "none", Requests: testDepth, IOTimeout: 30000,
			WriteCache: true, IOStats: true, Zoned: "none",
		}}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got  %+v, %v\nwant %+v", kernel, got, err, want)
		}
		queues, err := f.Queues(0)
		if err != nil || len(queues) != testQueues || queues[1].Tags != testDepth || len(queues[1].CPUs) != 1 {
			t.Errorf("%s: queues %+v, %v", kernel, queues, err)
		}
		stats, err := f.DiskStats()
		if err != nil || stats[0].InFlight != 7 {
			t.Errorf("%s: disk statistics %+v, %v", kernel, stats, err)
		}
		if ids, err := f.Devices(); err != nil || !slices.Equal(ids, []int{0}) || !f.DriverLoaded() {
			t.Errorf("%s: devices %v, %v", kernel, ids, err)
		}
		if max, err := f.UblksMax(); err != nil || max != 64 {
			t.Errorf("%s: ublks_max %d, %v", kernel, max, err)
		}
	}
}

func TestRecordedRequests(t *testing.T) {
	for _, kernel := range kernels {
		f := recorded(kernel, "held")
		stat, err := f.Stat(0)
		if err != nil || stat.InFlight != 7 {
			t.Errorf("%s: stat %+v, %v", kernel, stat, err)
		}
		if inflight, err := f.Inflight(0); err != nil || inflight != (Inflight{5, 2}) {
			t.Errorf("%s: inflight %+v, %v", kernel, inflight, err)
		}
		operations := map[string]int{}
		for queue := range testQueues {
			tags, err := f.TagsBitmap(0, queue)
			if err != nil {
				t.Errorf("%s: %v", kernel, err)
			}
			busy, err := f.Busy(0, queue)
			if err != nil || len(busy) != tags.Count() {
				t.Errorf("%s: queue %d: %d requests, %d tags, %v", kernel, queue, len(busy), tags.Count(), err)
			}
			for _, request := range busy {
				operations[request.Op]++
				if !tags.Has(request.Tag) || request.InternalTag != -1 || request.State != "in_flight" || !slices.Contains(request.Flags, "SYNC") {
					t.Errorf("%s: queue %d: %+v", kernel, queue, request)
				}
			}
			if waiting, err := f.Dispatch(0, queue); err != nil || len(waiting) != 0 {
				t.Errorf("%s: dispatch %+v, %v", kernel, waiting, err)
			}
			if state, err := f.HCTXState(0, queue); err != nil || len(state) != 0 {
				t.Errorf("%s: hardware queue state %q, %v", kernel, state, err)
			}
		}
		if operations["READ"] != 5 || operations["WRITE"] != 2 {
			t.Errorf("%s: operations %v", kernel, operations)
		}
		if err := f.CheckDebugfs(); err != nil {
			t.Error(err)
		}
	}
}

// TestRecordedParked holds the kernels against each other: three requests came
// after the server had died.
func TestRecordedParked(t *testing.T) {
	for _, test := range []struct {
		kernel   string
		requeued int
		quiesced bool
	}{{"6.12", 0, true}, {"7.3", 3, false}} {
		f := recorded(test.kernel, "parked")
		stat, err := f.Stat(0)
		if err != nil || stat.InFlight != 3 {
			t.Errorf("%s: stat %+v, %v", test.kernel, stat, err)
		}
		inflight, err := f.Inflight(0)
		if err != nil || inflight.Total() != 0 {
			t.Errorf("%s: inflight %+v, %v", test.kernel, inflight, err)
		}
		requeued, err := f.RequeueList(0)
		if err != nil || len(requeued) != test.requeued {
			t.Errorf("%s: requeue list %+v, %v", test.kernel, requeued, err)
		}
		for _, request := range requeued {
			if request.State != "idle" || request.Op != "READ" || request.Tag < 0 {
				t.Errorf("%s: %+v", test.kernel, request)
			}
		}
		tags := 0
		for queue := range testQueues {
			set, err := f.TagsBitmap(0, queue)
			if err != nil {
				t.Errorf("%s: %v", test.kernel, err)
			}
			tags += set.Count()
			if busy, err := f.Busy(0, queue); err != nil || len(busy) != 0 {
				t.Errorf("%s: busy %+v, %v", test.kernel, busy, err)
			}
		}
		if tags != 3 {
			t.Errorf("%s: %d tags, not 3", test.kernel, tags)
		}
		flags, err := f.QueueState(0)
		if err != nil || slices.Contains(flags, "QUIESCED") != test.quiesced || !slices.Contains(flags, "REGISTERED") {
			t.Errorf("%s: queue state %q, %v", test.kernel, flags, err)
		}
	}
}
