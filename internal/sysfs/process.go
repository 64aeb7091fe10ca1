package sysfs

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Process is what /proc shows of a process to everyone.
type Process struct {
	PID, PPID int
	Comm      string   // the kernel's name for it, at most 15 bytes
	Command   []string // its arguments; empty for kernel threads and zombies
	// State is the main thread's: R running, S asleep, D in a wait that cannot be
	// interrupted, T stopped by a signal, t by a tracer, Z zombie, X dead, I idle.
	State byte
	// StartTicks, the start in hundredths of a second after boot, tells a process
	// from a later one with the same pid.
	StartTicks uint64
	Started    time.Time
	Uptime     time.Duration // since Started, on the clock that counts suspend
	CPU        time.Duration // user and system time of all threads
	RSS        uint64        // resident memory, bytes; the kernel's cheap estimate
	Threads    int
	UID        int
	Flags      uint32 // PF_… of the main thread
}

// Thread is what /proc shows of one thread.
type Thread struct {
	TID     int
	Comm    string
	State   byte          // as in Process
	CPU     time.Duration // user and system time
	LastCPU int           // where it ran last
	Flags   uint32        // PF_…
}

// The flags that PR_SET_IO_FLUSHER sets: PF_MEMALLOC_NOIO and PF_LOCAL_THROTTLE.
const ioFlusher = 0x80000 | 0x100000

// IOFlusher says whether the main thread has PR_SET_IO_FLUSHER: its memory
// allocations cannot wait for I/O on the device that it serves.
func (p Process) IOFlusher() bool { return p.Flags&ioFlusher == ioFlusher }

// IOFlusher says the same of a thread.
func (t Thread) IOFlusher() bool { return t.Flags&ioFlusher == ioFlusher }

// ticksPerSecond is USER_HZ, 100 on every architecture that Go runs on.
const ticksPerSecond = 100

// Process reads about one process; fs.ErrNotExist if there is none. Reading
// the arguments takes a lock of the process's memory: a process that hangs in a
// page fault on a wedged device can hold it. ProcessStat does without.
func (f *FS) Process(pid int) (Process, error) {
	process, err := f.ProcessStat(pid)
	if err != nil {
		return Process{}, err
	}
	folder := "proc/" + strconv.Itoa(pid)
	// Both can be gone or closed to us (hidepid) by now without making the rest wrong.
	if arguments, err := f.read(folder, "cmdline"); err == nil && len(arguments) > 0 {
		process.Command = strings.Split(strings.TrimSuffix(string(arguments), "\x00"), "\x00")
	}
	return process, nil
}

// ProcessStat reads what Process does except the arguments. It never blocks.
func (f *FS) ProcessStat(pid int) (Process, error) {
	folder := "proc/" + strconv.Itoa(pid)
	stat, err := f.procStat(folder)
	if err != nil {
		return Process{}, err
	}
	process := Process{
		PID: pid, PPID: stat.ppid, Comm: stat.comm, State: stat.state, StartTicks: stat.start,
		CPU: ticks(stat.utime + stat.stime), RSS: stat.rss * uint64(os.Getpagesize()), Threads: stat.threads, Flags: stat.flags,
	}
	if process.UID, err = f.uid(folder); err != nil {
		return Process{}, err
	}
	uptime, err := f.word("proc/uptime")
	if err != nil {
		return Process{}, err
	}
	sinceBoot, _, _ := strings.Cut(uptime, " ")
	if up, err := time.ParseDuration(sinceBoot + "s"); err == nil {
		process.Uptime = max(up-ticks(stat.start), 0)
		process.Started = time.Now().Add(-process.Uptime)
	}
	return process, nil
}

// Threads reads about the threads of a process, in the order of their ids. A
// thread that ends meanwhile is left out.
func (f *FS) Threads(pid int) ([]Thread, error) {
	folder := "proc/" + strconv.Itoa(pid) + "/task"
	tids, err := f.numbers(folder)
	if err != nil {
		return nil, err
	}
	threads := make([]Thread, 0, len(tids))
	for _, tid := range tids {
		stat, err := f.procStat(folder + "/" + strconv.Itoa(tid))
		if err != nil {
			continue
		}
		threads = append(threads, Thread{
			TID: tid, Comm: stat.comm, State: stat.state, CPU: ticks(stat.utime + stat.stime), LastCPU: stat.processor, Flags: stat.flags,
		})
	}
	return threads, nil
}

func ticks(n uint64) time.Duration { return time.Duration(n) * (time.Second / ticksPerSecond) }

// pids returns the ids of all processes in ascending order.
func (f *FS) pids() ([]int, error) { return f.numbers("proc") }

// numbers returns the names in a folder that are numbers, in ascending order.
func (f *FS) numbers(folder string) ([]int, error) {
	names, err := f.list(folder)
	if err != nil {
		return nil, err
	}
	var numbers []int
	for _, name := range names {
		if n, ok := idOf(name, ""); ok {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// uid returns the real user id from the line "Uid:" of status.
func (f *FS) uid(folder string) (int, error) {
	status, err := f.word(folder, "status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(status) {
		if ids, found := strings.CutPrefix(line, "Uid:"); found {
			real, _, _ := strings.Cut(strings.TrimSpace(ids), "\t")
			return strconv.Atoi(real)
		}
	}
	return 0, fmt.Errorf("%s: no user id", f.path(folder, "status"))
}

// procStat is a line of /proc/PID/stat, or of a thread's.
type procStat struct {
	comm         string
	state        byte
	ppid         int
	flags        uint32
	utime, stime uint64 // ticks
	threads      int
	start        uint64 // ticks after boot
	rss          uint64 // pages
	processor    int
}

func (f *FS) procStat(folder string) (procStat, error) {
	text, err := f.word(folder, "stat")
	if err != nil {
		return procStat{}, err
	}
	stat, err := parseProcStat(text)
	if err != nil {
		return procStat{}, fmt.Errorf("%s: %w", f.path(folder, "stat"), err)
	}
	return stat, nil
}

// parseProcStat reads a line as proc_pid_stat(5) describes it. The name in
// parentheses may itself have parentheses and spaces: it ends at the last one.
func parseProcStat(text string) (procStat, error) {
	open, end := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	if open < 0 || end < open {
		return procStat{}, fmt.Errorf("process statistics %q have no name", text)
	}
	columns := strings.Fields(text[end+1:]) // the manual's columns 3 and on
	if len(columns) < 37 || len(columns[0]) != 1 {
		return procStat{}, fmt.Errorf("process statistics %q are too short", text)
	}
	var err error
	number := func(manual int) uint64 {
		n, e := strconv.ParseInt(columns[manual-3], 10, 64)
		if e != nil && err == nil {
			err = fmt.Errorf("process statistics: column %d: %q is not a number", manual, columns[manual-3])
		}
		return uint64(n)
	}
	stat := procStat{
		comm: text[open+1 : end], state: columns[0][0], ppid: int(number(4)), flags: uint32(number(9)),
		utime: number(14), stime: number(15), threads: int(number(20)), start: number(22), rss: number(24), processor: int(number(39)),
	}
	return stat, err
}
