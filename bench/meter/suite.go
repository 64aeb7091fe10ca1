package main

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
)

// suite is a set of servers that are up side by side, and what they are put
// through.
type suite struct {
	name       string
	prepare    [][]string // commands that must succeed first
	contenders []contender
	workloads  []workload
	cleanup    [][]string
}

// contender is a way to have a block device.
type contender struct {
	name string
	add  func(id int) []string // a command that leaves /dev/ublkbID LIVE
	del  func(id int) []string
	node string // a device that is there already, instead of add
}

// workload is a load of fio's.
type workload struct {
	name string
	args []string
}

func kublk(args ...string) func(int) []string {
	return func(id int) []string {
		return slices.Concat([]string{os.Getenv("UBLK_KUBLK"), "add", "-n", fmt.Sprint(id), "-d", "128"}, args)
	}
}

func kublkDel(id int) []string {
	return []string{os.Getenv("UBLK_KUBLK"), "del", "-n", fmt.Sprint(id)}
}

func ours(args ...string) func(int) []string {
	return func(id int) []string {
		return slices.Concat([]string{os.Getenv("UBLK_BIN"), "add", "-n", fmt.Sprint(id), "-d", "128"}, args)
	}
}

func oursDel(id int) []string { return []string{os.Getenv("UBLK_BIN"), "del", fmt.Sprint(id)} }

func fio(rw, bs string, depth int, more ...string) []string {
	return append([]string{"--rw=" + rw, "--bs=" + bs, fmt.Sprintf("--iodepth=%d", depth)}, more...)
}

var (
	depth64 = workload{"4k randread, iodepth 64", fio("randread", "4k", 64)}
	depth1  = workload{"4k randread, iodepth 1", fio("randread", "4k", 1)}
	batch16 = workload{"4k randread, batches of 16", fio("randread", "4k", 64, "--iodepth_batch_complete_min=16", "--iodepth_batch_submit=16")}
	write64 = workload{"4k randwrite, iodepth 64", fio("randwrite", "4k", 64)}
	large4  = workload{"128k randread, iodepth 16, by 4", fio("randread", "128k", 16, "--iodepth_batch_complete_min=4", "--iodepth_batch_submit=4")}
)

// suites are the comparisons of a meter.
func suites(kind string) []suite {
	null := suite{
		name: "null",
		contenders: []contender{
			{name: "kublk", add: kublk("-t", "null", "-q", "1"), del: kublkDel},
			{name: "ublk copy", add: ours("-t", "null", "--data=copy"), del: oursDel},
			{name: "ublk copy --stats=off", add: ours("-t", "null", "--data=copy", "--stats=off"), del: oursDel},
			{name: "ublk none", add: ours("-t", "null", "--data=none"), del: oursDel},
		},
		workloads: []workload{depth64, depth1, batch16},
	}
	batch := suite{
		name: "null, batch mode",
		contenders: []contender{
			{name: "kublk --batch", add: kublk("-t", "null", "-q", "1", "--batch"), del: kublkDel},
			{name: "ublk --batch", add: ours("-t", "null", "--data=copy", "--batch"), del: oursDel},
		},
		workloads: []workload{batch16},
	}
	onNull := [][]string{{"modprobe", "configfs"}, {"modprobe", "null_blk", "nr_devices=4", "gb=64"}}
	loop := suite{
		name:    "loop on null_blk",
		prepare: onNull,
		contenders: []contender{
			{name: "kublk", add: kublk("-t", "loop", "-q", "1", "/dev/nullb0"), del: kublkDel},
			{name: "ublk", add: ours("-t", "loop", "-f", "/dev/nullb1"), del: oursDel},
		},
		workloads: []workload{depth64, write64},
		cleanup:   [][]string{{"rmmod", "null_blk"}},
	}
	large := suite{
		name:    "loop on null_blk, automatic registration",
		prepare: onNull,
		contenders: []contender{
			{name: "kublk --auto_zc", add: kublk("-t", "loop", "-q", "1", "--auto_zc", "/dev/nullb0"), del: kublkDel},
			{name: "ublk auto-reg", add: ours("-t", "loop", "-f", "/dev/nullb1", "--data=auto-reg"), del: oursDel},
		},
		workloads: []workload{large4},
		cleanup:   [][]string{{"rmmod", "null_blk"}},
	}
	if kind == "count" {
		return []suite{null, batch, loop, large}
	}
	two := suite{
		name: "two queues",
		contenders: []contender{
			{name: "kublk -q 2", add: kublk("-t", "null", "-q", "2"), del: kublkDel},
			{name: "ublk -q 2", add: ours("-t", "null", "-q", "2"), del: oursDel},
		},
		workloads: []workload{depth64},
	}
	return []suite{null, two, loop, fileSuite()}
}

// fileSuite is a disk in a file on ext4 on a RAM disk, against the kernel's own
// loop driver with direct I/O.
func fileSuite() suite {
	return suite{
		name: "file in ext4 on a RAM disk",
		prepare: [][]string{
			{"modprobe", "brd", "rd_nr=1", "rd_size=1048576"},
			{"mkfs.ext4", "-q", "-F", "/dev/ram0"},
			{"mkdir", "-p", "/run/bench"},
			{"mount", "/dev/ram0", "/run/bench"},
			{"fallocate", "-l", "300M", "/run/bench/a"},
			{"fallocate", "-l", "300M", "/run/bench/b"},
			{"dd", "if=/dev/zero", "of=/run/bench/a", "bs=1M", "count=300", "oflag=direct", "conv=notrunc", "status=none"},
			{"dd", "if=/dev/zero", "of=/run/bench/b", "bs=1M", "count=300", "oflag=direct", "conv=notrunc", "status=none"},
			{"modprobe", "loop"},
			{"losetup", "--direct-io=on", "/dev/loop0", "/run/bench/a"},
		},
		contenders: []contender{
			{name: "kernel loop, direct I/O", node: "/dev/loop0"},
			{name: "ublk loop", add: ours("-t", "loop", "-f", "/run/bench/b"), del: oursDel},
		},
		workloads: []workload{depth64, write64},
		cleanup:   [][]string{{"losetup", "-d", "/dev/loop0"}, {"umount", "/run/bench"}},
	}
}

// available drops the contenders whose program is not here.
func (s *suite) available(r *results) []contender {
	var here []contender
	for i, c := range s.contenders {
		if c.add != nil {
			program := c.add(0)[0]
			if _, err := exec.LookPath(program); program == "" || err != nil {
				r.Missing = append(r.Missing, s.name+": "+c.name)
				continue
			}
		}
		here = append(here, s.contenders[i])
	}
	return here
}
