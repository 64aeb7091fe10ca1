package server_test

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"ublk/ctrl"
	"ublk/server"
)

// memory is a disk in memory: any io.ReaderAt and io.WriterAt will do.
type memory []byte

func (m memory) ReadAt(p []byte, off int64) (int, error)  { return copy(p, m[off:]), nil }
func (m memory) WriteAt(p []byte, off int64) (int, error) { return copy(m[off:], p), nil }

// A disk of ordinary Go code: add a device, serve it until Ctrl-C, delete it.
func ExampleBackend() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()

	client, err := ctrl.Open()
	if err != nil {
		fmt.Println(err) // no driver, or not root
		return
	}
	defer client.Close()

	disk := make(memory, 64<<20)
	target, err := server.FromBackend(disk, server.BackendConfig{Size: int64(len(disk))})
	if err != nil {
		fmt.Println(err)
		return
	}
	features, err := client.Features(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	plan, err := server.Config{Queues: 2}.Plan(target, features)
	if err != nil {
		fmt.Println(err)
		return
	}
	device, err := server.Add(ctx, client, plan, target)
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := device.Start(ctx); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("serving", device.Path())

	select {
	case <-ctx.Done(): // stop while it still serves, so that nothing in flight fails
		err = device.Stop(context.Background())
	case <-device.Done(): // stopped by somebody else, or broken
		err = device.Wait()
	}
	if err == nil {
		err = device.Close()
	}
	if err == nil {
		err = device.Delete(context.Background())
	}
	fmt.Println("stopped:", err)
}
