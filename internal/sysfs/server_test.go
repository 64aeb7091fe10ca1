package sysfs

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/internal/uapi"
	"ublk/internal/uring"
)

// The tests against a real driver need a server that can be told to hold its
// requests, and killed. It is this test binary, started again.

const (
	testQueues   = 2
	testDepth    = 16
	testMaxIO    = 64 << 10
	testDiskSize = 64 << 20
)

func TestMain(m *testing.M) {
	if id := os.Getenv("UBLK_TEST_SERVE"); id != "" {
		n, _ := strconv.Atoi(id)
		fmt.Fprintln(os.Stderr, "server:", serveMemory(n))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// testDevice is a device with recovery and a server in a process of its own.
type testDevice struct {
	id      int
	client  *ctrl.Client
	server  *exec.Cmd
	answers *bufio.Reader
	orders  interface{ Write([]byte) (int, error) }
}

func newTestDevice(t *testing.T) *testDevice {
	t.Helper()
	if !New("/").DriverLoaded() {
		t.Skip("the ublk driver is not loaded")
	}
	client, err := ctrl.Open()
	if err != nil {
		t.Fatal(err)
	}
	have, err := client.Features(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// Where the driver looks for partitions after START_DEV, and not in it, its
	// read could be held, and every open would wait for it.
	info, err := client.Add(t.Context(), ctrl.AddRequest{
		ID: -1, Queues: testQueues, Depth: testDepth, MaxIOBytes: testMaxIO,
		Flags: uapi.FlagUserRecovery | uapi.FlagCmdIoctlEncode | uapi.FlagNoAutoPartScan&uint64(have),
	})
	if err != nil {
		t.Fatal(err)
	}
	d := &testDevice{id: info.ID, client: client}
	t.Cleanup(func() {
		if d.server != nil {
			_ = d.server.Process.Kill()
			_ = d.server.Wait()
		}
		if err := client.Stop(context.Background(), d.id); err != nil {
			t.Error(err)
		}
		if err := client.Del(context.Background(), d.id); err != nil {
			t.Error(err)
		}
		client.Close()
	})
	params := ctrl.Params{Basic: &ctrl.BasicParams{
		LogicalBlockShift: 9, PhysicalBlockShift: 12, IOOptShift: 16, IOMinShift: 12, VolatileCache: true,
		MaxSectors: testMaxIO / 512, DevSectors: testDiskSize / 512,
	}}
	if err := client.SetParams(t.Context(), d.id, params); err != nil {
		t.Fatal(err)
	}
	d.serve(t)
	if err := client.Start(t.Context(), d.id, d.server.Process.Pid); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *testDevice) serve(t *testing.T) {
	t.Helper()
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	d.server = exec.Command(executable)
	d.server.Env = append(os.Environ(), "UBLK_TEST_SERVE="+strconv.Itoa(d.id))
	d.server.Stderr = os.Stderr
	if d.orders, err = d.server.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	ready, err := d.server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.server.Start(); err != nil {
		t.Fatal(err)
	}
	d.answers = bufio.NewReader(ready)
	if line, err := d.answers.ReadString('\n'); err != nil {
		t.Fatalf("the server is not ready: %q, %v", line, err)
	}
}

// hold makes the server keep what it gets from now on.
func (d *testDevice) hold(t *testing.T) {
	t.Helper()
	if _, err := d.orders.Write([]byte("hold\n")); err != nil {
		t.Fatal(err)
	}
	if line, err := d.answers.ReadString('\n'); err != nil {
		t.Fatalf("the server does not hold: %q, %v", line, err)
	}
}

// serveMemory serves a disk in memory until it is killed; with a line on
// standard input it goes on taking requests and answers none.
func serveMemory(id int) error {
	client, err := ctrl.Open()
	if err != nil {
		return err
	}
	info, err := client.Info(context.Background(), id)
	if err != nil {
		return err
	}
	client.Close() // its ring would be one more
	char, err := unix.Open(ctrl.CharPath(id), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	disk, err := uring.Map(testDiskSize)
	if err != nil {
		return err
	}
	var held atomic.Bool
	ended := make(chan error)
	fetched := make(chan struct{})
	for qid := range info.Queues {
		queue := memoryQueue{char: char, qid: qid, info: info, disk: disk, held: &held}
		go func() { ended <- queue.run(fetched) }()
	}
	for range info.Queues {
		select {
		case <-fetched:
		case err := <-ended:
			return err
		}
	}
	fmt.Println("ready")
	go func() {
		bufio.NewReader(os.Stdin).ReadString('\n')
		held.Store(true)
		fmt.Println("held")
	}()
	return <-ended
}

type memoryQueue struct {
	char, qid    int
	info         ctrl.DevInfo
	disk         []byte
	held         *atomic.Bool
	ring         *uring.Ring
	descs, bytes []byte
}

func (q *memoryQueue) run(fetched chan<- struct{}) (err error) {
	runtime.LockOSThread()
	if q.ring, err = uring.New(uring.Config{Entries: testDepth, SingleIssuer: true}); err != nil {
		return err
	}
	stride := uapi.MaxQueueDepth * q.info.DescSize
	if q.descs, err = unix.Mmap(q.char, int64(q.qid*stride), q.info.Depth*q.info.DescSize, unix.PROT_READ, unix.MAP_SHARED); err != nil {
		return err
	}
	if q.bytes, err = uring.Map(q.info.Depth * testMaxIO); err != nil {
		return err
	}
	for tag := range q.info.Depth {
		q.command(uapi.IOFetchReq, tag, 0)
	}
	if err := q.ring.Flush(); err != nil {
		return err
	}
	fetched <- struct{}{}
	for {
		if err := q.ring.Wait(); err != nil {
			return err
		}
		ready := q.ring.Ready()
		for i := range ready {
			cqe := q.ring.CQE(i)
			if cqe.Res < 0 {
				return unix.Errno(-cqe.Res)
			}
			if tag := int(cqe.UserData); !q.held.Load() {
				q.command(uapi.IOCommitAndFetch, tag, q.handle(tag))
			}
		}
		q.ring.Advance(ready)
	}
}

func (q *memoryQueue) command(op uint32, tag int, result int32) {
	sqe := q.ring.SQE()
	sqe.Opcode, sqe.Fd, sqe.Off, sqe.UserData = uapi.RingOpURingCmd, int32(q.char), uint64(op), uint64(tag)
	binary.NativeEndian.PutUint16(sqe.Cmd[0:], uint16(q.qid))
	binary.NativeEndian.PutUint16(sqe.Cmd[2:], uint16(tag))
	binary.NativeEndian.PutUint32(sqe.Cmd[4:], uint32(result))
	binary.NativeEndian.PutUint64(sqe.Cmd[8:], uring.Addr(q.buffer(tag)))
}

func (q *memoryQueue) buffer(tag int) []byte { return q.bytes[tag*testMaxIO:][:testMaxIO] }

func (q *memoryQueue) handle(tag int) int32 {
	desc := q.descs[tag*q.info.DescSize:]
	op := binary.NativeEndian.Uint32(desc) & 0xff
	length := int(binary.NativeEndian.Uint32(desc[4:])) * 512
	start := int(binary.NativeEndian.Uint64(desc[8:])) * 512
	switch op {
	case 0: // READ
		return int32(copy(q.buffer(tag)[:length], q.disk[start:]))
	case 1: // WRITE
		return int32(copy(q.disk[start:start+length], q.buffer(tag)))
	case 2: // FLUSH
		return 0
	}
	return -int32(unix.EOPNOTSUPP)
}
