package ctrl_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublk/internal/ctrldev"
	"ublk/internal/ctrldev/fake"
	"ublk/internal/uapi"
)

// world is what happens to devices besides control commands: the fake driver
// has it built in, lab_test.go does it to the real one.
type world interface {
	OpenChar(id, pid int) error
	FetchAll(id int) error
	CloseChar(id int) error
	OpenBlock(id int) error
	CloseBlock(id int) error
	Chown(id int, write bool) error // the node, to callers without CAP_SYS_ADMIN
	Become(privileged bool)         // the caller of what follows
}

// env is one scenario's device and the driver under test.
type env struct {
	world
	drv ctrldev.Driver
	old bool // 6.12
	pid int  // of the server
	id  int

	prefixed bool // commands to the device carry its path
}

// step is one thing done and what must come of it. old is what Linux 6.12
// answers where that differs.
type step struct {
	what string
	do   func(*env) error
	want error
	old  error
}

func ok(what string, do func(*env) error) step { return step{what, do, nil, nil} }
func fails(want error, what string, do func(*env) error) step {
	return step{what, do, want, want}
}
func (s step) on612(want error) step { s.old = want; return s }

const (
	second = time.Second
	blink  = 150 * time.Millisecond // long enough for a command that does not wait
)

// submit sends one command as it is, below the conveniences of Client.
func (e *env) submit(timeout time.Duration, c *ctrldev.Command) (int32, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if e.prefixed && c.Path == "" && c.Op != uapi.CmdAddDev {
		c.Path = fmt.Sprintf("/dev/ublkc%d", e.id)
	}
	return e.drv.Submit(ctx, c)
}

// cmd sends a command without payload to the scenario's device.
func cmd(op uint32, data uint64) func(*env) error {
	return func(e *env) error {
		_, err := e.submit(5*second, &ctrldev.Command{Op: op, DevID: uint32(e.id), QueueID: uapi.AllQueues, Data: data})
		return err
	}
}

// serve is cmd with the server's pid.
func serve(op uint32) func(*env) error {
	return func(e *env) error { return cmd(op, uint64(e.pid))(e) }
}

// hangs is cmd for a command that must still be waiting after a moment; it is
// interrupted then.
func hangs(op uint32, data uint64) func(*env) error {
	return func(e *env) error {
		_, err := e.submit(blink, &ctrldev.Command{Op: op, DevID: uint32(e.id), QueueID: uapi.AllQueues, Data: data})
		return err
	}
}

// settles is cmd that waits for the release of the char device, which the
// kernel leaves to a worker and announces to nobody.
func settles(op uint32, data uint64) func(*env) error {
	return func(e *env) error {
		for deadline := time.Now().Add(5 * second); ; time.Sleep(5 * time.Millisecond) {
			err := cmd(op, data)(e)
			if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
				return err
			}
		}
	}
}

// payload is cmd with a buffer of n zero bytes.
func payload(op uint32, data uint64, n int) func(*env) error {
	return func(e *env) error {
		_, err := e.submit(5*second, &ctrldev.Command{Op: op, DevID: uint32(e.id), QueueID: uapi.AllQueues, Data: data, Buf: make([]byte, n)})
		return err
	}
}

// path is payload with a path in front; "" stands for the device's own.
func path(op uint32, path string, n int) func(*env) error {
	return func(e *env) error {
		where := path
		if where == "" {
			where = fmt.Sprintf("/dev/ublkc%d", e.id)
		}
		_, err := e.submit(5*second, &ctrldev.Command{Op: op, DevID: uint32(e.id), QueueID: uapi.AllQueues, Path: where, Buf: make([]byte, n)})
		return err
	}
}

// request is an ADD_DEV that every kernel accepts. NO_AUTO_PART_SCAN keeps the
// driver from reading where it can; older kernels drop it.
func request() uapi.DevInfo {
	return uapi.DevInfo{NrHWQueues: 1, QueueDepth: 4, MaxIOBufBytes: 1 << 19, DevID: uapi.AnyDevice,
		Flags: uapi.FlagUserCopy | uapi.FlagNoAutoPartScan}
}

// add makes the scenario's device of request() as edited.
func add(edit func(*uapi.DevInfo)) func(*env) error {
	return addGot(edit, func(uapi.DevInfo) error { return nil })
}

// addGot is add; check judges what the driver made of the request.
func addGot(edit func(*uapi.DevInfo), check func(uapi.DevInfo) error) func(*env) error {
	return func(e *env) error {
		info := request()
		if edit != nil {
			edit(&info)
		}
		_, err := e.submit(5*second, &ctrldev.Command{Op: uapi.CmdAddDev, DevID: info.DevID, QueueID: uapi.AllQueues, Buf: uapi.Bytes(&info)})
		if err != nil {
			return err
		}
		e.id = int(info.DevID)
		return check(info)
	}
}

// flagged is add with flags on top of request()'s.
func flagged(flags uint64) func(*env) error {
	return add(func(i *uapi.DevInfo) { i.Flags |= flags })
}

// basic is the smallest parameter block that the driver takes.
func basic() uapi.Params {
	return uapi.Params{Len: uapi.ParamsLen, Types: uapi.ParamBasic, Basic: uapi.ParamsBasic{
		LogicalBSShift: 9, PhysicalBSShift: 12, IOOptShift: 12, IOMinShift: 9, MaxSectors: 256, DevSectors: 2048}}
}

// set is SET_PARAMS of basic() as edited.
func set(edit func(*uapi.Params)) func(*env) error {
	return func(e *env) error {
		p := basic()
		if edit != nil {
			edit(&p)
		}
		_, err := e.submit(5*second, &ctrldev.Command{Op: uapi.CmdSetParams, DevID: uint32(e.id), QueueID: uapi.AllQueues, Buf: uapi.Bytes(&p)})
		return err
	}
}

// params is GET_PARAMS; check judges the answer.
func params(check func(*env, uapi.Params) error) func(*env) error {
	return func(e *env) error {
		p := uapi.Params{Len: uapi.ParamsLen}
		_, err := e.submit(5*second, &ctrldev.Command{Op: uapi.CmdGetParams, DevID: uint32(e.id), QueueID: uapi.AllQueues, Buf: uapi.Bytes(&p)})
		if err != nil {
			return err
		}
		return check(e, p)
	}
}

// groups expects GET_PARAMS to list types.
func groups(types uint32) func(*env) error {
	return params(func(_ *env, p uapi.Params) error {
		if p.Types != types {
			return fmt.Errorf("groups %#x, want %#x", p.Types, types)
		}
		return nil
	})
}

// info is GET_DEV_INFO; check judges the answer.
func info(check func(*env, uapi.DevInfo) error) func(*env) error {
	return func(e *env) error {
		var i uapi.DevInfo
		_, err := e.submit(5*second, &ctrldev.Command{Op: uapi.CmdGetDevInfo, DevID: uint32(e.id), QueueID: uapi.AllQueues, Buf: uapi.Bytes(&i)})
		if err != nil {
			return err
		}
		return check(e, i)
	}
}

// state expects the device in a state.
func state(want uint16) func(*env) error {
	return info(func(_ *env, i uapi.DevInfo) error {
		if i.State != want {
			return fmt.Errorf("state %d, want %d", i.State, want)
		}
		return nil
	})
}

// run plays a scenario's steps and compares every outcome.
func (e *env) run(t *testing.T, steps []step) {
	for _, s := range steps {
		want := s.want
		if e.old {
			want = s.old
		}
		if err := s.do(e); !errors.Is(err, want) || (err != nil) != (want != nil) {
			t.Errorf("%s: %v, want %v", s.what, err, want)
		}
	}
}

// table is every scenario that applies.
func table(old bool) map[string][]step {
	all := maps.Clone(scenarios)
	maps.Copy(all, lifeScenarios)
	maps.Copy(all, userScenarios)
	if old {
		maps.Copy(all, oldScenarios)
	} else {
		maps.Copy(all, newScenarios)
	}
	return all
}

func TestFakeAgainstTable(t *testing.T) {
	for _, k := range []struct {
		name   string
		kernel fake.Kernel
	}{{"7.3", fake.Linux7_3}, {"6.12", fake.Linux6_12}} {
		old := k.kernel == fake.Linux6_12
		for name, steps := range table(old) {
			t.Run(k.name+"/"+name, func(t *testing.T) {
				t.Parallel()
				drv := fake.New(fake.Options{Kernel: k.kernel})
				e := env{world: drv, drv: drv, old: old, pid: 4411, id: -1}
				e.run(t, steps)
			})
		}
	}
}
