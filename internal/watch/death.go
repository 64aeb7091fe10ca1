package watch

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ublk/internal/rundir"
	"ublk/internal/stats"
)

// Death is what is known of the end of a device's last server.
type Death struct {
	PID      int       `json:"pid"`
	Noticed  time.Time `json:"noticed"`
	How      string    `json:"how,omitempty"`       // "" if nobody could tell
	InFlight *int      `json:"in_flight,omitempty"` // requests that it held; nil if unknown
}

// deathFile is where a death is remembered, in the state folder.
const deathFile = "death"

// Save remembers a death for info, replacing the one before.
func (d Death) Save(dir rundir.Dir) error {
	data, err := json.Marshal(d)
	if err != nil {
		return err
	}
	path := filepath.Join(dir.Path, deathFile)
	if err := os.WriteFile(path+".tmp", append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

// NoteDeath remembers the death of the server that the statistics page is of, if
// no watch has, before the next server puts its own page there.
func NoteDeath(dir rundir.Dir) error {
	page, err := stats.Open(dir.Stats())
	if err != nil {
		return err
	}
	pid := page.PID()
	if err := page.Close(); err != nil {
		return err
	}
	if last, err := LastDeath(dir); err == nil && last.PID == pid {
		return nil
	}
	return Death{PID: pid, Noticed: time.Now(), InFlight: inFlight(dir, pid)}.Save(dir)
}

// LastDeath is the death that was remembered last; fs.ErrNotExist if none was.
func LastDeath(dir rundir.Dir) (Death, error) {
	var d Death
	data, err := os.ReadFile(filepath.Join(dir.Path, deathFile))
	if err != nil {
		return d, err
	}
	if err := json.Unmarshal(data, &d); err != nil {
		return d, fmt.Errorf("%s: %w", filepath.Join(dir.Path, deathFile), err)
	}
	return d, nil
}

// inFlight counts the requests that server pid held, by the page that it left.
// It may have been moved out of the way already.
func inFlight(dir rundir.Dir, pid int) *int {
	for _, path := range []string{dir.Stats(), fmt.Sprintf("%s.%d", dir.Stats(), pid)} {
		page, err := stats.Open(path)
		if err != nil {
			continue
		}
		n, err := countHeld(page, pid)
		if err == nil {
			return &n
		}
	}
	return nil
}

func countHeld(page *stats.Page, pid int) (n int, err error) {
	defer page.Close()
	if page.PID() != pid {
		return 0, fs.ErrNotExist
	}
	for i := range page.Queues() {
		q, err := page.Queue(i)
		if err != nil {
			return 0, err
		}
		n += len(q.Tags)
	}
	return n, nil
}

// howEnded is a wait status in words.
func howEnded(status unix.WaitStatus) string {
	switch {
	case status.Signaled():
		name := unix.SignalName(status.Signal())
		if name == "" {
			name = fmt.Sprintf("signal %d", status.Signal())
		}
		return name + map[bool]string{true: ", core dumped"}[status.CoreDump()]
	case status.ExitStatus() == 2:
		return "exit code 2, a panic"
	}
	return fmt.Sprintf("exit code %d", status.ExitStatus())
}

// logTail is how much of a log is searched for a panic, in bytes.
const logTail = 256 << 10

var (
	// Where the runtime begins to explain the end of a program.
	panicStart = regexp.MustCompile(`(?m)^(panic: |fatal error: |SIG[A-Z]+: |runtime: )`)
	// The server's own lines, which follow with the next server.
	logLine = regexp.MustCompile(`(?m)^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d `)
)

// LastPanic is what the runtime wrote when a server of the device died of
// itself, at most limit bytes; "" if none did, or a server has become LIVE
// since and since is set.
func LastPanic(dir rundir.Dir, limit int, sinceLive bool) (string, error) {
	f, err := os.Open(dir.Log())
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return "", err
	}
	data, err := io.ReadAll(io.NewSectionReader(f, max(end-logTail, 0), logTail))
	return lastPanic(string(data), limit, sinceLive), err
}

func lastPanic(log string, limit int, sinceLive bool) string {
	if sinceLive {
		lines := logLine.FindAllStringIndex(log, -1)
		if len(lines) > 0 {
			log = log[lines[len(lines)-1][0]:]
		}
	}
	// The last block that begins with such a line and ends with a server's own.
	text := ""
	for len(log) > 0 {
		at := panicStart.FindStringIndex(log)
		if at == nil {
			break
		}
		log = log[at[0]:]
		block := log
		if next := logLine.FindStringIndex(log); next != nil {
			block, log = log[:next[0]], log[next[0]:]
		} else {
			log = ""
		}
		text = strings.TrimRight(block, "\n")
	}
	if len(text) > limit {
		text = text[:limit]
	}
	return text
}

// firstLine is the first line of a text.
func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}
