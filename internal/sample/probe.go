package sample

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"ublk/ctrl"
	"ublk/internal/rundir"
	"ublk/internal/stats"
	"ublk/internal/sysfs"
)

// probe looks at one device. It belongs to the one goroutine that looks; what
// it returns is the receiver's.
type probe struct {
	id      int
	fs      *sysfs.FS
	state   rundir.Root
	driver  Driver
	debugfs bool

	// What to expect, set before a look.
	stat    sysfs.Stat
	hasDisk bool
	quiet   bool // nothing happened on the disk since the last look
	stuck   bool // something is in flight and nothing was completed since then

	own     *own
	page    *stats.Page
	reading *reading      // the last one of page
	shape   []sysfs.Queue // hardware queues, of this disk; nil if not read yet
	threads threadTimes
}

// own is what the state folder tells of a device of ours.
type own struct {
	token      uint64
	name, kind string
}

// seen is what a look saw. What could not be seen is zero.
type seen struct {
	info     *ctrl.DevInfo
	err      error // of the driver, if info is nil
	process  *sysfs.Process
	inflight sysfs.Inflight
	requeued bool
	flags    []string // of the request queue
	noQueues bool
	own      *own
	reading  *reading
	handler  string
}

// look reads what every sample needs.
func (p *probe) look(ctx context.Context) seen {
	var s seen
	if p.driver != nil {
		info, err := p.driver.Info(ctx, p.id)
		if s.err = err; err == nil {
			s.info = &info
		}
	}
	if p.hasDisk && p.stat.InFlight > 0 {
		s.inflight, _ = p.fs.Inflight(p.id)
		if p.debugfs && p.stat.InFlight > s.inflight.Total() {
			requests, _ := p.fs.RequeueList(p.id)
			s.requeued = len(requests) > 0
		}
	}
	if s.info == nil {
		return s
	}
	p.lookStopping(&s)
	if pid := s.info.ServerPID; pid > 0 {
		if process, err := p.fs.ProcessStat(pid); err == nil {
			s.process = &process
		}
	}
	p.lookOwn(&s)
	if s.info.State == ctrl.Quiesced || s.info.State == ctrl.FailIO {
		s.handler = p.lockHolder()
	}
	return s
}

// lookStopping finds the signs of a disk that is being stopped, where nothing moves.
func (p *probe) lookStopping(s *seen) {
	if !p.stuck || s.info.State != ctrl.Live {
		return
	}
	if p.debugfs {
		if flags, err := p.fs.QueueState(p.id); err == nil {
			s.flags = flags
			return
		}
	}
	s.noQueues = !p.fs.HasQueues(p.id)
}

// lookOwn reads what a server of ours leaves for us.
func (p *probe) lookOwn(s *seen) {
	token := s.info.ServerFlags
	if p.own == nil || p.own.token != token {
		p.closePage()
		p.own = p.readOwn(token)
	}
	if s.own = p.own; s.own == nil {
		return
	}
	served := 0 // the living server
	if s.process != nil {
		served = s.process.PID
	}
	if p.page != nil && served > 0 && p.page.PID() != served {
		p.closePage() // a new server has started a new page
	}
	if p.page == nil {
		p.page, _ = stats.Open(p.state.Dir(p.id).Stats())
	}
	switch {
	case p.page == nil:
	case p.quiet && p.reading != nil:
		p.reading = p.reading.again()
	default:
		p.reading = readPage(p.page)
	}
	s.reading = p.reading
}

// readOwn reads the state folder of the device that has this token; nil if it
// is none of ours.
func (p *probe) readOwn(token uint64) *own {
	if token == 0 {
		return nil
	}
	config, err := p.state.Dir(p.id).ReadConfig()
	if err != nil || config.Token != token || config.ID != p.id {
		return nil
	}
	o := &own{token: token, name: config.Name}
	var body struct { // of server.Config, which a monitor does not depend on
		Type string `json:"type"`
	}
	if json.Unmarshal(config.Body, &body) == nil {
		o.kind = body.Type
	}
	return o
}

// lockHolder is the pid and the command of who holds the device's lock, as
// rundir signs it; "" if nobody that lives does.
func (p *probe) lockHolder() string {
	signed, err := os.ReadFile(filepath.Join(p.state.Path, strconv.Itoa(p.id)+".lock"))
	if err != nil {
		return ""
	}
	number, command, _ := strings.Cut(string(signed), " ")
	pid, err := strconv.Atoi(number)
	if err != nil || pid <= 0 {
		return ""
	}
	if _, err := p.fs.ProcessStat(pid); errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	words := strings.Fields(command)
	if len(words) > 2 {
		words = words[:2]
	}
	if len(words) > 0 {
		words[0] = filepath.Base(words[0])
	}
	return strings.Join(append([]string{number}, words...), " ")
}

func (p *probe) closePage() {
	if p.page != nil {
		_ = p.page.Close()
	}
	p.page, p.reading = nil, nil
}

func (p *probe) close() { p.closePage() }

// reading is a statistics page at one time.
type reading struct {
	pid    int
	at     int64 // stats.Now
	queues []*stats.Sample
}

// readPage returns nil for a page that cannot be read.
func readPage(page *stats.Page) *reading {
	r := &reading{pid: page.PID(), at: stats.Now()}
	for i := range page.Queues() {
		q, err := page.Queue(i)
		if err != nil {
			return nil
		}
		r.queues = append(r.queues, q)
	}
	return r
}

// again is the reading of a page that has not changed.
func (r *reading) again() *reading { return &reading{r.pid, stats.Now(), r.queues} }

// threadTimes is what threads had used of the CPUs at one time, by id.
type threadTimes struct {
	pid  int
	at   time.Time
	used map[int]time.Duration
}
