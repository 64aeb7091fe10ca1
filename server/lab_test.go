package server_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"ublk/ctrl"
	"ublk/internal/labtest"
	"ublk/server"
	"ublk/server/target/null"
)

// serve brings up a device and takes it down when the test ends.
func serve(t *testing.T, c *ctrl.Client, cfg server.Config, target server.Target) *server.Device {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	have, err := c.Features(ctx)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := cfg.Plan(target, have)
	if err != nil {
		t.Fatal(err)
	}
	d, err := server.Add(ctx, c, plan, target)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Start(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := d.Stop(ctx); err != nil {
			t.Errorf("stop: %v", err)
		}
		if err := d.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if err := d.Delete(ctx); err != nil {
			t.Errorf("delete: %v", err)
		}
	})
	return d
}

func TestNull(t *testing.T) {
	c := labtest.Require(t)
	for _, mode := range []server.DataMode{server.DataCopy, server.DataUserCopy, server.DataNone} {
		t.Run(mode.String(), func(t *testing.T) {
			d := serve(t, c, server.Config{Type: "null", Queues: 2, Data: mode}, null.New(null.DefaultSize))
			out := labtest.Run(t, "fio", "--name=t", "--filename="+d.Path(), "--rw=randrw", "--bs=4k", "--iodepth=64",
				"--ioengine=io_uring", "--direct=1", "--time_based", "--runtime=1", "--group_reporting", "--minimal")
			fmt.Println(out)
		})
	}
}
