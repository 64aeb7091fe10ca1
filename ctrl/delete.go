package ctrl

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"ublk/internal/uapi"
)

// Del removes a device and waits until its id is free (DEL_DEV): until the last
// opener of the block device and of the char device is gone. Stop first: the
// command holds a lock over all devices while it tears one down.
//
// The driver waits for the id, not for the device (ublk_drv.c:ublk_ctrl_del_dev,
// v7.3): if somebody adds a device with the same id before it looks, it goes on
// waiting for the end of that one. Del does not.
func (c *Client) Del(ctx context.Context, id int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var replaced atomic.Bool
	if device := incarnation(id); device != 0 {
		go func() {
			awaitOther(ctx, id, device)
			replaced.Store(ctx.Err() == nil)
			cancel()
		}()
	}
	err := c.simple(ctx, uapi.CmdDelDev, id, 0)
	if replaced.Load() {
		return nil
	}
	return err
}

// awaitOther returns when another device has the id. That is rare, and nothing
// that tells it is worth its setting up: hence the tick.
func awaitOther(ctx context.Context, id int, device uint64) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if now := incarnation(id); now != 0 && now != device {
			return
		}
	}
}

// incarnation tells a device from others that had its id: it is the number of
// its folder in sysfs, which is never used again. 0 if it cannot be seen.
func incarnation(id int) uint64 {
	info, err := os.Stat(fmt.Sprintf("/sys/class/ublk-char/ublkc%d", id))
	if err != nil {
		return 0
	}
	return info.Sys().(*syscall.Stat_t).Ino
}
