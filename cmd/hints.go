package cmd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ublk/ctrl"
	"ublk/server"
)

// lookTime bounds what is asked of the driver for the sake of a hint.
const lookTime = time.Second

// driverHint says how to get the driver.
func (a *app) driverHint(error) string {
	if a.fs.DriverLoaded() {
		return "The ublk driver is loaded, but its control node is not here (a container?). Its number is in /sys/class/misc/ublk-control/dev."
	}
	return "The ublk driver is not loaded. Try: modprobe ublk_drv  (CONFIG_BLK_DEV_UBLK, Linux 6.0 or newer)"
}

// ringHint says why io_uring, the only way to the driver, is closed.
func (a *app) ringHint(err error) string {
	disabled, _ := os.ReadFile(filepath.Join(a.machine, "proc/sys/kernel/io_uring_disabled"))
	switch strings.TrimSpace(string(disabled)) {
	case "2":
		return "io_uring is disabled on this machine (kernel.io_uring_disabled=2). Try: sysctl kernel.io_uring_disabled=0"
	case "1":
		return "io_uring is for root and one group on this machine (kernel.io_uring_disabled=1, kernel.io_uring_group). Run it as root."
	}
	if errors.Is(err, unix.ENOSYS) {
		return "This kernel has no io_uring (CONFIG_IO_URING), or a seccomp filter hides it."
	}
	return "Something keeps this process from io_uring: most likely the seccomp filter of a container."
}

// unsupportedHint names the release where the error itself does not.
func (a *app) unsupportedHint(err error) string {
	var missing *ctrl.UnsupportedError
	var refused *ctrl.Error
	switch {
	case errors.As(err, &missing):
		if f, ok := ctrl.LookupFeature(missing.Feature); ok && f.Needs != "" {
			return fmt.Sprintf("It needs Linux %s or newer, and %s. All that this kernel has: ublk features", f.Since, f.Needs)
		}
		return "All that this kernel has: ublk features"
	case errors.As(err, &refused) && refused.Op == "QUIESCE_DEV":
		return "The device was added without recovery (ublk add --recovery)."
	}
	return ""
}

// devicesHint lists the devices that there are.
func (a *app) devicesHint(error) string {
	ids, err := a.fs.Devices()
	if err != nil {
		return ""
	}
	if len(ids) == 0 {
		return "There are no devices."
	}
	const most = 20
	var names []string
	for _, id := range ids[:min(len(ids), most)] {
		name := strconv.Itoa(id)
		if stored, err := a.state.Dir(id).ReadConfig(); err == nil && stored.Name != "" {
			name += " (" + stored.Name + ")"
		}
		names = append(names, name)
	}
	if len(ids) > most {
		names = append(names, fmt.Sprintf("and %d more", len(ids)-most))
	}
	return "Devices: " + strings.Join(names, ", ")
}

// takenHint says who has a device number that was asked for.
func (a *app) takenHint(err error) string {
	var refused *ctrl.Error
	if !errors.As(err, &refused) || refused.Dev < 0 {
		return ""
	}
	id := refused.Dev
	otherwise := " Choose another number or leave -n out."
	if _, err := a.fs.CharDev(id); err != nil {
		held := ""
		if users, _, err := a.fs.Users(id); err == nil && len(users) > 0 {
			held = ": " + usersText(users)
		}
		return fmt.Sprintf("Device %d was deleted, but somebody still holds it%s.%s", id, held, otherwise)
	}
	return fmt.Sprintf("Device %d is there already%s.%s", id, a.inBrackets(id), otherwise)
}

// inBrackets is a few words about a device: " (loop, LIVE, server 4411)".
func (a *app) inBrackets(id int) string {
	ctx, cancel := context.WithTimeout(context.Background(), lookTime)
	defer cancel()
	_, info, err := a.device(ctx, id)
	if err != nil {
		return ""
	}
	var words []string
	if cfg, err := server.Remembered(info); err == nil {
		words = append(words, cfg.Type)
	}
	words = append(words, info.State.String())
	if info.ServerPID > 0 && info.State == ctrl.Live {
		words = append(words, fmt.Sprintf("server %d", info.ServerPID))
	}
	return " (" + strings.Join(words, ", ") + ")"
}

// busyHint says what keeps a device busy.
func (a *app) busyHint(err error) string {
	var refused *ctrl.Error
	if !errors.As(err, &refused) || refused.Dev < 0 {
		return ""
	}
	switch refused.Op {
	case "START_USER_RECOVERY", "END_USER_RECOVERY", "START_DEV":
		if pid, ok, _ := a.fs.CharHolder(refused.Dev); ok {
			return fmt.Sprintf("%s is open in %s%s.", ctrl.CharPath(refused.Dev), a.whoIs(pid), a.inBrackets(refused.Dev))
		}
		return fmt.Sprintf("Nobody waits for that, or the old server is still going%s.", a.inBrackets(refused.Dev))
	}
	if users, _, err := a.fs.Users(refused.Dev); err == nil && len(users) > 0 {
		return "In use: " + usersText(users)
	}
	return ""
}

func (a *app) whoIs(pid int) string {
	if process, err := a.fs.ProcessStat(pid); err == nil {
		return fmt.Sprintf("process %d (%s)", pid, process.Comm)
	}
	return fmt.Sprintf("process %d", pid)
}

// liveHint says how to replace a server that works.
func (a *app) liveHint(error) string {
	return "To replace the server: ublk upgrade. To end it: ublk del."
}

// deadlineHint says who holds up the device that gave no answer.
func (a *app) deadlineHint(err error) string {
	var refused *ctrl.Error
	if !errors.As(err, &refused) || refused.Dev < 0 {
		return ""
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookTime)
	defer cancel()
	_, info, ierr := a.device(ctx, refused.Dev)
	if ierr != nil {
		return ""
	}
	switch refused.Op {
	case "START_DEV", "END_USER_RECOVERY":
		return "The server has not fetched every tag of every queue: " + a.holdUp(info)
	}
	if by := a.holdUp(info); by != "" {
		return "The command goes on in the kernel. It may wait for somebody: " + by
	}
	return "The command goes on in the kernel."
}

// permissionHint says what privilege is missing.
func (a *app) permissionHint(err error) string {
	var control controlError
	var refused *ctrl.Error
	switch {
	case !errors.As(err, &control) && !errors.As(err, &refused): // of some file
		return ""
	case a.euid == 0:
		return "The driver wants CAP_SYS_ADMIN in the initial user namespace; root in a container does not have it."
	case errors.As(err, &control):
		return "Only root may use the driver here. Try it with sudo. (For devices of ordinary users, a udev rule opens the control node.)"
	}
	return "Try it as root. (Ordinary users can use what they added with --unprivileged, where a udev rule gives them /dev/ublkcN.)"
}
