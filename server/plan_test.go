package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/internal/uapi"
)

const (
	linux612 = ctrl.Features(0x1fe)
	linux73  = ctrl.Features(0x1fffff)
)

// stub is a target of 1 MiB with the modes of a loop.
type stub struct {
	modes  []DataMode
	params ctrl.Params
}

func newStub(modes ...DataMode) *stub { return &stub{modes, Geometry(1<<20, 9)} }

func (s *stub) Params() ctrl.Params           { return s.params }
func (s *stub) Queue(*Queue) (Handler, error) { return nil, errors.New("never served") }
func (s *stub) Close() error                  { return nil }
func (s *stub) Modes() []DataMode             { return s.modes }

func TestPlanModes(t *testing.T) {
	loop := newStub(DataAutoReg, DataCopy, DataUserCopy, DataZeroCopy)
	null := newStub(DataCopy, DataUserCopy, DataNone)
	for _, tt := range []struct {
		name   string
		target Target
		cfg    Config
		have   ctrl.Features
		want   DataMode
		flags  uint64
	}{
		{"best of 7.3", loop, Config{}, linux73, DataAutoReg, uapi.FlagAutoBufReg | uapi.FlagSupportZeroCopy},
		{"best of 6.12", loop, Config{}, linux612, DataCopy, 0},
		{"unprivileged", loop, Config{Unprivileged: true}, linux73, DataCopy, uapi.FlagUnprivilegedDev},
		{"user copy", loop, Config{Data: DataUserCopy}, linux612, DataUserCopy, uapi.FlagUserCopy},
		{"null never none by itself", null, Config{}, linux73, DataCopy, 0},
		{"none scans no partitions", null, Config{Data: DataNone}, linux73, DataNone, uapi.FlagUserCopy | uapi.FlagNoAutoPartScan},
		{"reissue brings quiesce", null, Config{Recovery: ctrl.RecoveryReissue}, linux73, DataCopy, uapi.FlagUserRecovery | uapi.FlagUserRecoveryReissue | uapi.FlagQuiesce},
		{"no quiesce on 6.12", null, Config{Recovery: ctrl.RecoveryRequeue}, linux612, DataCopy, uapi.FlagUserRecovery},
		{"batch", null, Config{Batch: true}, linux73, DataCopy, uapi.FlagBatchIO},
		{"need get data", null, Config{NeedGetData: true}, linux612, DataCopy, uapi.FlagNeedGetData},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := tt.cfg.Plan(tt.target, tt.have)
			if err != nil {
				t.Fatal(err)
			}
			if p.Mode != tt.want || p.Add.Flags != tt.flags {
				t.Errorf("mode %s flags %#x, want %s %#x", p.Mode, p.Add.Flags, tt.want, tt.flags)
			}
			if p.Add.Queues != DefaultQueues || p.Add.Depth != DefaultDepth || p.Add.MaxIOBytes != DefaultMaxIO {
				t.Errorf("defaults: %+v", p.Add)
			}
			if p.Params.Basic.MaxSectors != DefaultMaxIO/512 {
				t.Errorf("max_sectors %d", p.Params.Basic.MaxSectors)
			}
		})
	}
}

func TestPlanRefuses(t *testing.T) {
	null := newStub(DataCopy, DataUserCopy, DataNone)
	for _, tt := range []struct {
		name    string
		cfg     Config
		have    ctrl.Features
		feature string // of an UnsupportedError
		text    string // else
	}{
		{"batch on 6.12", Config{Batch: true}, linux612, "UBLK_F_BATCH_IO", ""},
		{"fail on 6.12", Config{Recovery: ctrl.RecoveryFail}, linux612, "UBLK_F_USER_RECOVERY_FAIL_IO", ""},
		{"no partition scan on 6.12", Config{NoPartitionScan: true}, linux612, "UBLK_F_NO_AUTO_PART_SCAN", ""},
		{"mode of another target", Config{Data: DataAutoReg}, linux73, "", "only copy, user-copy, none"},
		{"unprivileged user copy", Config{Unprivileged: true, Data: DataUserCopy}, linux73, "", "unprivileged"},
		{"unprivileged recovery", Config{Unprivileged: true, Recovery: ctrl.RecoveryRequeue}, linux73, "", "cannot be recovered"},
		{"need get data without copy", Config{NeedGetData: true, Data: DataUserCopy}, linux73, "", "need-get-data"},
		{"queues", Config{Queues: 5000}, linux73, "", "5000 queues"},
		{"depth", Config{Depth: 4097}, linux73, "", "depth 4097"},
		{"negative depth", Config{Depth: -1}, linux73, "", "depth -1"},
		{"request size", Config{MaxIOBytes: 512}, linux73, "", "512 bytes"},
		{"logical block", Config{LogicalBlock: 1000}, linux73, "", "power of two"},
		{"large block", Config{LogicalBlock: 1 << 20}, linux73, "", "logical"},
		{"buffers", Config{Buffers: "tiny"}, linux73, "", "plain, fixed, huge"},
		{"cpus twice", Config{CPUs: []int{0}, Affinity: true}, linux73, "", "exclude"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := tt.cfg.Plan(null, tt.have)
			var missing *ctrl.UnsupportedError
			if got := errors.As(err, &missing); got != (tt.feature != "") || got && missing.Feature != tt.feature {
				t.Fatalf("%v, want feature %q", err, tt.feature)
			}
			if err == nil || !strings.Contains(err.Error(), tt.text) {
				t.Fatalf("%v, want text %q", err, tt.text)
			}
		})
	}
}

func TestPlanBlocks(t *testing.T) {
	p, err := Config{LogicalBlock: 4096, ReadOnly: true}.Plan(newStub(DataCopy), linux73)
	if err != nil {
		t.Fatal(err)
	}
	if b := p.Params.Basic; b.LogicalBlockShift != 12 || b.PhysicalBlockShift != 12 || !b.ReadOnly || b.DevSectors != 2048 {
		t.Errorf("%+v", b)
	}
	big := newStub(DataCopy)
	big.params = Geometry(1<<20, 12)
	if _, err := (Config{LogicalBlock: 512}).Plan(big, linux73); err == nil {
		t.Error("blocks smaller than the target's were accepted")
	}
}

// TestWireErrors sends errors from one process to another.
func TestWireErrors(t *testing.T) {
	for _, tt := range []struct {
		err error
		is  []error
	}{
		{&ctrl.Error{Op: "ADD_DEV", Dev: 3, Err: unix.EEXIST}, []error{unix.EEXIST, fs.ErrExist}},
		{fmt.Errorf("x: %w", &ctrl.Error{Op: "DEL_DEV", Dev: 3, Err: unix.ENODEV}), []error{ctrl.ErrNoDevice}},
		{&ctrl.Error{Op: "START_DEV", Dev: 1, Err: context.DeadlineExceeded}, []error{context.DeadlineExceeded}},
		{&ctrl.UnsupportedError{Feature: "UBLK_F_BATCH_IO", Since: "7.0"}, []error{errors.ErrUnsupported}},
		{fmt.Errorf("device 1: %w: process 7", ErrLive), []error{ErrLive}},
		{&fs.PathError{Op: "open", Path: "/x", Err: unix.ENOENT}, []error{fs.ErrNotExist}},
	} {
		got := toWire(tt.err).err()
		if got.Error() != tt.err.Error() {
			t.Errorf("text %q, want %q", got, tt.err)
		}
		for _, target := range tt.is {
			if !errors.Is(got, target) {
				t.Errorf("%v is not %v on the other side", tt.err, target)
			}
		}
		var ce, want *ctrl.Error
		if errors.As(tt.err, &want) && !errors.Is(tt.err, context.DeadlineExceeded) && (!errors.As(got, &ce) || ce.Op != want.Op || ce.Dev != want.Dev) {
			t.Errorf("%v lost its command: %+v", tt.err, ce)
		}
	}
}

func TestReadReport(t *testing.T) {
	read := func(text string) (report, error) { return readReport(json.NewDecoder(strings.NewReader(text))) }
	if r, err := read(`{"started":{"id":4}}`); err != nil || r.Started.ID != 4 {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := read(`{"prepared":true}`); err != nil || !r.Prepared {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := read(""); !errors.Is(err, io.EOF) {
		t.Errorf("silence: %v", err)
	}
	if _, err := read("{}"); err == nil {
		t.Error("an empty report was taken")
	}
}

func TestErrnoOf(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want int32
	}{
		{unix.ENOSPC, -int32(unix.ENOSPC)},
		{&fs.PathError{Op: "write", Err: unix.EDQUOT}, -int32(unix.EDQUOT)},
		{errors.New("broken"), -int32(unix.EIO)},
		{unix.Errno(0), -int32(unix.EIO)},
	} {
		if got := errnoOf(tt.err); got != tt.want {
			t.Errorf("%v is %d, want %d", tt.err, got, tt.want)
		}
	}
}

// TestTransfer is rule 4: all of it, or an error.
func TestTransfer(t *testing.T) {
	p := make([]byte, 8)
	for _, tt := range []struct {
		n    int
		err  error
		want error
	}{
		{8, nil, nil}, {8, io.EOF, nil}, {7, nil, unix.EIO}, {7, io.EOF, unix.EIO}, {0, io.EOF, unix.EIO}, {3, unix.ENOSPC, unix.ENOSPC},
	} {
		got := transfer(func([]byte, int64) (int, error) { return tt.n, tt.err }, p, 0)
		if !errors.Is(got, tt.want) || (got == nil) != (tt.want == nil) {
			t.Errorf("%d bytes, %v: %v, want %v", tt.n, tt.err, got, tt.want)
		}
	}
}

func TestFinishedStack(t *testing.T) {
	q := &Queue{reqs: make([]Request, 64), async: async{event: -1}}
	for i := range q.reqs {
		q.reqs[i].q, q.reqs[i].tag = q, uint16(i)
	}
	done := make(chan struct{})
	for w := range 4 {
		go func() {
			for i := w; i < 64; i += 4 {
				q.async.push(&q.reqs[i])
			}
			done <- struct{}{}
		}()
	}
	seen := map[uint32]bool{}
	take := func() {
		for next := q.async.head.Swap(0); next != 0; next = q.reqs[next-1].next.Load() {
			if seen[next] {
				t.Errorf("tag %d twice", next-1)
			}
			seen[next] = true
		}
	}
	for running := 4; running > 0; {
		select {
		case <-done:
			running--
		default:
			take()
		}
	}
	take()
	if len(seen) != 64 {
		t.Errorf("%d of 64 requests", len(seen))
	}
}

func TestFromBackendRefuses(t *testing.T) {
	for _, cfg := range []BackendConfig{{Size: 0}, {Size: 100}, {Size: 4096, LogicalBlock: 700}, {Size: 4096, Workers: -1}} {
		if _, err := FromBackend(nil, cfg); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
}

type forgetful struct{ *stub }

func (forgetful) Volatile() string { return "it forgets" }

func TestPlanVolatile(t *testing.T) {
	target := forgetful{newStub(DataCopy)}
	if _, err := (Config{Recovery: ctrl.RecoveryReissue}).Plan(target, linux73); err == nil || !strings.Contains(err.Error(), "it forgets") {
		t.Errorf("recovery of a target that forgets: %v", err)
	}
	if _, err := (Config{}).Plan(target, linux73); err != nil {
		t.Error(err)
	}
}
