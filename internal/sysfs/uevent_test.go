package sysfs

import (
	"strings"
	"testing"
)

func message(lines ...string) []byte { return []byte(strings.Join(lines, "\x00") + "\x00") }

func TestParseUevent(t *testing.T) {
	for _, test := range []struct {
		name    string
		message []byte
		want    Uevent
	}{
		{"ADD_DEV", message("add@/devices/virtual/misc/ublk-control/ublkc0", "ACTION=add", "DEVPATH=/devices/virtual/misc/ublk-control/ublkc0",
			"SUBSYSTEM=ublk-char", "MAJOR=244", "MINOR=0", "DEVNAME=ublkc0", "SEQNUM=1234"),
			Uevent{Action: "add", DevPath: "/devices/virtual/misc/ublk-control/ublkc0", Subsystem: "ublk-char", DevName: "ublkc0", Seq: 1234}},
		{"START_DEV", message("add@/devices/virtual/block/ublkb3", "ACTION=add", "DEVPATH=/devices/virtual/block/ublkb3", "SUBSYSTEM=block",
			"MAJOR=259", "MINOR=0", "DEVNAME=ublkb3", "DEVTYPE=disk", "DISKSEQ=7", "SEQNUM=1236"),
			Uevent{Action: "add", DevPath: "/devices/virtual/block/ublkb3", Subsystem: "block", DevName: "ublkb3", DevType: "disk", ID: 3, Seq: 1236, DiskSeq: 7}},
		{"UPDATE_SIZE", message("change@/devices/virtual/block/ublkb3", "ACTION=change", "DEVPATH=/x", "SUBSYSTEM=block", "DEVNAME=ublkb3", "RESIZE=1"),
			Uevent{Action: "change", DevPath: "/x", Subsystem: "block", DevName: "ublkb3", ID: 3, Resized: true}},
		{"partition", message("add@/x", "ACTION=add", "DEVPATH=/x", "SUBSYSTEM=block", "DEVNAME=ublkb12p3", "DEVTYPE=partition"),
			Uevent{Action: "add", DevPath: "/x", Subsystem: "block", DevName: "ublkb12p3", DevType: "partition", ID: 12}},
	} {
		got, ok := parseUevent(test.message)
		if got.Env["ACTION"] != test.want.Action {
			t.Errorf("%s: environment %v", test.name, got.Env)
		}
		got.Env = nil
		if !ok || !equalUevents(got, test.want) {
			t.Errorf("%s: got %+v, %v; want %+v", test.name, got, ok, test.want)
		}
	}
	for _, other := range [][]byte{
		nil, message("libudev"), message("add@/x", "ACTION=add", "SUBSYSTEM=block", "DEVNAME=sda"),
		message("add@/devices/virtual/bdi/259:0", "ACTION=add", "SUBSYSTEM=bdi"), message("add@/x", "SUBSYSTEM=block", "DEVNAME=ublkb0"),
		message("add@/x", "ACTION=add", "SUBSYSTEM=block", "DEVNAME=ublkb0p"), message("add@/x", "ACTION=add", "SUBSYSTEM=ublk-char", "DEVNAME=ublkb0"),
	} {
		if got, ok := parseUevent(other); ok {
			t.Errorf("%q gave %+v", other, got)
		}
	}
}

func equalUevents(a, b Uevent) bool {
	return a.Action == b.Action && a.DevPath == b.DevPath && a.Subsystem == b.Subsystem && a.DevName == b.DevName && a.DevType == b.DevType &&
		a.ID == b.ID && a.Seq == b.Seq && a.DiskSeq == b.DiskSeq && a.Resized == b.Resized
}

func TestBlockID(t *testing.T) {
	for name, want := range map[string][2]int{"ublkb0": {0, 0}, "ublkb12p3": {12, 3}} {
		if id, partition, ok := blockID(name); !ok || id != want[0] || partition != want[1] {
			t.Errorf("blockID(%q) = %d, %d, %v", name, id, partition, ok)
		}
	}
	for _, name := range []string{"", "ublkb", "ublkb0p", "ublkbp1", "ublkb01", "ublkb-1", "ublkb0p1p2", "ublkc0", "ublkb99999999999"} {
		if id, partition, ok := blockID(name); ok {
			t.Errorf("blockID(%q) = %d, %d", name, id, partition)
		}
	}
}

func FuzzParseUevent(f *testing.F) {
	f.Add(message("add@/x", "ACTION=add", "SUBSYSTEM=block", "DEVNAME=ublkb12p3", "SEQNUM=1"))
	f.Add([]byte("@\x00=\x00ACTION="))
	f.Fuzz(func(t *testing.T, message []byte) {
		if event, ok := parseUevent(message); ok && (event.ID < 0 || event.Action == "" || event.Lost) {
			t.Fatalf("%q gave %+v", message, event)
		}
	})
}
