package sysfs

import (
	"strings"
	"testing"
	"time"
)

const procStatText = "4411 (ublk (loop) x) S 1 4411 4411 0 -1 1572928 1500 0 2 0 144 56 0 0 20 0 9 0 123456 2500000000 4000 18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 3 0 0 0 0 0\n"

func TestParseProcStat(t *testing.T) {
	got, err := parseProcStat(procStatText)
	want := procStat{
		comm: "ublk (loop) x", state: 'S', ppid: 1, flags: 1572928, utime: 144, stime: 56, threads: 9, start: 123456, rss: 4000, processor: 3,
	}
	if err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, bad := range []string{"", "1 (x", ") (", "1 (x) S 1 2", strings.Replace(procStatText, "123456", "x", 1), strings.Replace(procStatText, " S ", " SS ", 1)} {
		if got, err := parseProcStat(bad); err == nil {
			t.Errorf("parseProcStat(%q) = %+v", bad, got)
		}
	}
}

func TestProcess(t *testing.T) {
	f := tree(t, map[string]string{
		"proc/4411/stat":           procStatText,
		"proc/4411/status":         "Name:\tublk\nUid:\t1000\t0\t0\t0\n",
		"proc/4411/cmdline":        "/usr/bin/ublk\x00serve\x00\x00",
		"proc/4411/task/4411/stat": procStatText,
		"proc/4411/task/4420/stat": strings.Replace(procStatText, " S ", " R ", 1),
		"proc/4411/task/9/cmdline": "no stat: it ended meanwhile",
		"proc/uptime":              "2000.50 3000.00\n",
	})
	got, err := f.Process(4411)
	if err != nil {
		t.Fatal(err)
	}
	if got.UID != 1000 || len(got.Command) != 3 || got.Command[1] != "serve" || got.Command[2] != "" || !got.IOFlusher() {
		t.Errorf("got %+v", got)
	}
	if got.CPU != 2*time.Second || got.Uptime != 2000500*time.Millisecond-1234560*time.Millisecond {
		t.Errorf("cpu %v, uptime %v", got.CPU, got.Uptime)
	}
	threads, err := f.Threads(4411)
	if err != nil || len(threads) != 2 || threads[1].TID != 4420 || threads[1].State != 'R' || threads[1].LastCPU != 3 || !threads[1].IOFlusher() {
		t.Errorf("threads %+v, %v", threads, err)
	}
}

func FuzzParseProcStat(f *testing.F) {
	f.Add(procStatText)
	f.Add("1 () R")
	f.Fuzz(func(t *testing.T, text string) {
		if stat, err := parseProcStat(text); err == nil && !strings.Contains(text, "("+stat.comm+")") {
			t.Fatalf("%q has no name %q", text, stat.comm)
		}
	})
}
