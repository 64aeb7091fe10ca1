package cmd

import (
	"fmt"
	"testing"

	"ublk/internal/ctrldev/fake"
	"ublk/internal/rundir"
)

func TestParseDevice(t *testing.T) {
	tests := []struct {
		arg string
		id  int
		ok  bool
	}{
		{"0", 0, true}, {"17", 17, true}, {"ublkb3", 3, true}, {"ublkc3", 3, true}, {"/dev/ublkb12", 12, true}, {"/dev/ublkc12", 12, true},
		{"1048575", 1048575, true}, {"1048576", 0, false}, {"99999999999999999999", 0, false}, {"-1", 0, false}, {"+1", 0, false},
		{"/dev/0", 0, false}, {"ublkb", 0, false}, {"ublkb03", 0, false}, {"ublkb0p1", 0, false}, {"", 0, false}, {"x", 0, false}, {"/dev/sda", 0, false},
	}
	for _, test := range tests {
		if id, ok := parseDevice(test.arg); id != test.id || ok != test.ok {
			t.Errorf("parseDevice(%q) = %d, %v", test.arg, id, ok)
		}
	}
}

func FuzzParseDevice(f *testing.F) {
	for _, seed := range []string{"0", "ublkb1", "/dev/ublkc2", "ublkbublkc1", "/dev//dev/ublkb1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, arg string) {
		id, ok := parseDevice(arg)
		if !ok {
			return
		}
		if id < 0 || id > maxID {
			t.Errorf("parseDevice(%q) = %d", arg, id)
		}
		if rundir.ValidName(arg) == nil {
			t.Errorf("%q is a number and a name", arg)
		}
	})
}

// remember gives a device of the fake driver a state folder, as server.Create does.
func (m *machine) remember(id int, token uint64, name, body string) {
	m.t.Helper()
	boot, err := rundir.BootID()
	m.must(err)
	dir := m.state.Dir(id)
	m.must(dir.Create(), dir.WriteConfig(rundir.Config{Token: token, BootID: boot, ID: id, Name: name, Body: []byte(body)}))
}

func TestNames(t *testing.T) {
	m := newMachine(t, fake.Options{})
	m.spawn = nil
	m.run("add", "--no-start", "-t", "null", "--name", "scratch", "--size", "1M").want(t, 0, "/dev/ublkc0\n")
	m.run("get-info", "scratch").want(t, 0, "dev_id            0")
	m.run("get-info", "-n", "scratch").want(t, 0, "dev_id            0")
	m.run("get-info", "nothing").want(t, 4, `no device is named "nothing"`, "Devices: 0 (scratch)")
	m.run("add", "--no-start", "-t", "null", "--name", "scratch").want(t, 1, "is that of device 0")

	// Another device with the number of one that had a name.
	m.remember(1, 77, "old", "{}")
	m.add(0)
	m.run("del", "old").want(t, 4, `no device is named "old"`)
	if _, ok := m.drv.Device(1); !ok {
		t.Error("the wrong device was deleted")
	}
}

func TestDeviceArguments(t *testing.T) {
	m := newMachine(t, fake.Options{})
	id := m.live(4411, 0)
	for _, spelling := range []string{"0", "ublkb0", "ublkc0", "/dev/ublkb0", "/dev/ublkc0"} {
		m.run("get-info", spelling).want(t, 0, fmt.Sprintf("dev_id            %d", id))
		m.run("get-info", "-n", spelling).want(t, 0)
		m.run("get-info", "--number="+spelling).want(t, 0)
	}
	m.run("get-info").want(t, 64, "which device?", "Try: ublk get-info --help")
	m.run("get-info", "0", "1").want(t, 64, "one device at a time")
	m.run("get-info", "0", "-n", "1").want(t, 64, "one device at a time")
	m.run("get-info", "/dev/sda").want(t, 64, "/dev/sda is no ublk device")
	m.run("get-info", "ublkb0p1").want(t, 64, "name its disk, ublkb0")
	m.run("get-info", "9").want(t, 4, "Devices: 0")
	m.run("info", "--all", "0").want(t, 64, "exclude each other")
	m.run("info").want(t, 64, "--all")
	m.run("info", "0", "9").want(t, 3, "Device 0", "device 9")
	m.run("info", "8", "9").want(t, 4)
}
