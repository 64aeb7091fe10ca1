package sysfs

import (
	"errors"
	"io/fs"
	"reflect"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestDevices(t *testing.T) {
	f := tree(t, map[string]string{
		"sys/class/misc/ublk-control/dev": "10:122\n",
		"sys/class/ublk-char/ublkc10/dev": "244:10\n", "sys/class/ublk-char/ublkc2/dev": "244:2\n", "sys/class/ublk-char/ublkcX/dev": "",
	})
	if ids, err := f.Devices(); err != nil || !slices.Equal(ids, []int{2, 10}) || !f.DriverLoaded() {
		t.Errorf("devices %v, %v", ids, err)
	}
	if dev, err := f.CharDev(10); err != nil || dev.String() != "244:10" {
		t.Errorf("char device %v, %v", dev, err)
	}
	empty := tree(t, map[string]string{"sys/class/misc/x": ""})
	if _, err := empty.Devices(); !errors.Is(err, fs.ErrNotExist) || empty.DriverLoaded() {
		t.Errorf("without the driver: %v", err)
	}
	if _, err := empty.UblksMax(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without the driver: %v", err)
	}
	wantNotExist(t, "debugfs", empty.CheckDebugfs())
}

func TestDisk(t *testing.T) {
	f := tree(t, map[string]string{
		"sys/block/ublkb3/dev": "259:5\n", "sys/block/ublkb3/size": "2048\n", "sys/block/ublkb3/ro": "1\n",
		"sys/block/ublkb3/queue/scheduler": "mq-deadline [kyber] none\n", "sys/block/ublkb3/queue/write_cache": "write back\n",
		"sys/block/ublkb3/queue/max_sectors_kb": "512\n",
		"sys/block/ublkb3/holders/dm-1":         "-> ../../dm-1", "sys/block/dm-1/dm/name": "data\n",
		"sys/block/ublkb3/ublkb3p10/dev": "259:7\n", "sys/block/ublkb3/ublkb3p10/start": "1024\n", "sys/block/ublkb3/ublkb3p10/size": "8\n",
		"sys/block/ublkb3/ublkb3p9/dev": "259:6\n", "sys/block/ublkb3/ublkb3p9/holders/md0": "-> x",
		"sys/block/ublkb3/ublkb3px/dev": "1:1\n",
	})
	got, err := f.Disk(3)
	want := Disk{
		ID: 3, Name: "ublkb3", Dev: Dev{259, 5}, Size: 1 << 20, ReadOnly: true,
		Limits:     Limits{Scheduler: "kyber", WriteCache: true, MaxSectors: 512 << 10},
		Holders:    []Holder{{"dm-1", "data"}},
		Partitions: []Partition{{Name: "ublkb3p9", Dev: Dev{259, 6}, Holders: []Holder{{"md0", ""}}}, {Name: "ublkb3p10", Dev: Dev{259, 7}, Start: 512 << 10, Size: 4096}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v, %v\nwant %+v", got, err, want)
	}
	_, err = f.Disk(4)
	wantNotExist(t, "Disk", err)
}

func TestDiskNonsense(t *testing.T) {
	for name, content := range map[string]string{"dev": "259", "size": "x", "queue/fua": "-1"} {
		files := map[string]string{"sys/block/ublkb3/dev": "259:5\n"}
		files["sys/block/ublkb3/"+name] = content
		if disk, err := tree(t, files).Disk(3); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s %q: %+v, %v", name, content, disk, err)
		}
	}
}

func TestQueues(t *testing.T) {
	files := map[string]string{"sys/block/ublkb3/dev": "259:5\n"}
	if queues, err := tree(t, files).Queues(3); err != nil || len(queues) != 0 {
		t.Errorf("without mq: %v, %v", queues, err)
	}
	for queue, cpus := range map[string]string{"0": "0, 2\n", "10": "3\n", "9": "\n"} {
		files["sys/block/ublkb3/mq/"+queue+"/nr_tags"] = "16\n"
		files["sys/block/ublkb3/mq/"+queue+"/cpu_list"] = cpus
	}
	queues, err := tree(t, files).Queues(3)
	want := []Queue{{Index: 0, Tags: 16, CPUs: []int{0, 2}}, {Index: 9, Tags: 16}, {Index: 10, Tags: 16, CPUs: []int{3}}}
	if err != nil || !reflect.DeepEqual(queues, want) {
		t.Errorf("got %+v, %v", queues, err)
	}
	_, err = tree(t, files).Queues(4)
	wantNotExist(t, "Queues", err)
	files["sys/block/ublkb3/mq/0/cpu_list"] = "zero"
	if _, err := tree(t, files).Queues(3); err == nil {
		t.Error("a CPU list that is none")
	}
}

func TestErrnosOfTheVanished(t *testing.T) {
	for _, errno := range []unix.Errno{unix.ENODEV, unix.ENXIO, unix.ESRCH, unix.ENOENT} {
		if err := gone(&fs.PathError{Op: "read", Path: "x", Err: errno}); !errors.Is(err, fs.ErrNotExist) || !errors.Is(err, errno) {
			t.Errorf("%v is %v", errno, err)
		}
	}
	for _, errno := range []unix.Errno{unix.EACCES, unix.EPERM} {
		if err := gone(&fs.PathError{Op: "open", Path: "x", Err: errno}); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%v is %v", errno, err)
		}
	}
}
