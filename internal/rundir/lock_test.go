package rundir

import (
	"bufio"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// ended is a context to try with, not to wait.
func ended(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

func lockNow(t *testing.T, root Root, id int) *Lock {
	t.Helper()
	lock, err := root.Lock(ended(t), id)
	if err != nil {
		t.Fatal(err)
	}
	return lock
}

func unlock(t *testing.T, lock *Lock) {
	t.Helper()
	if err := lock.Unlock(); err != nil {
		t.Fatal(err)
	}
}

func TestLockIsPerDevice(t *testing.T) {
	root := newRoot(t)
	three, four := lockNow(t, root, 3), lockNow(t, root, 4)
	expectFiles(t, root.Path, "3.lock", "4.lock")
	info, err := os.Stat(filepath.Join(root.Path, "3.lock"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("lock file: mode %v, %v, want 0600", info.Mode(), err)
	}
	var held *HeldError
	if _, err := root.Lock(ended(t), 3); !errors.As(err, &held) || held.PID != os.Getpid() || !errors.Is(err, context.Canceled) {
		t.Errorf("locked twice: %v", err)
	}
	unlock(t, three)
	unlock(t, lockNow(t, root, 3))
	unlock(t, four)
	expectFiles(t, root.Path)
	if err := three.Unlock(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("unlocked twice: %v, want fs.ErrClosed", err)
	}
}

// Processes that take the lock, and the file away, as fast as they can.
func TestLockExcludes(t *testing.T) {
	root := newRoot(t)
	counter := filepath.Join(filepath.Dir(root.Path), "count")
	if err := os.WriteFile(counter, []byte("0"), 0o600); err != nil {
		t.Fatal(err)
	}
	var waits []func() error
	for range 3 {
		cmd, lines := start(t, root, "count", 3)
		waits = append(waits, func() error {
			for lines.Scan() {
				t.Error(lines.Text())
			}
			return cmd.Wait()
		})
	}
	var callers sync.WaitGroup
	for range 2 {
		callers.Go(func() {
			if err := count(root, 3); err != nil {
				t.Error(err)
			}
		})
	}
	callers.Wait()
	for _, wait := range waits {
		if err := wait(); err != nil {
			t.Error(err)
		}
	}
	if text, err := os.ReadFile(counter); err != nil || string(text) != "500" {
		t.Errorf("counted %s, %v, want 500", text, err)
	}
	expectFiles(t, root.Path)
}

func TestLockOfKilledHolder(t *testing.T) {
	root := newRoot(t)
	holder, lines := start(t, root, "hold", 3)
	expectLine(t, lines, "held")

	_, err := root.Lock(ended(t), 3)
	var held *HeldError
	if !errors.As(err, &held) || held.PID != holder.Process.Pid || !strings.HasSuffix(held.Command, "role hold") {
		t.Fatalf("got %+v, want the holder, pid %d", err, holder.Process.Pid)
	}
	if !strings.Contains(err.Error(), filepath.Join(root.Path, "3.lock")) {
		t.Errorf("%q does not say which lock", err)
	}

	locked := make(chan error)
	go func() {
		lock, err := root.Lock(t.Context(), 3)
		if err == nil {
			err = lock.Unlock()
		}
		locked <- err
	}()
	kill(t, holder)
	if err := <-locked; err != nil {
		t.Fatal(err)
	}
	expectFiles(t, root.Path)
}

// A wait that was given up must neither keep the lock nor disturb the holder.
func TestLockGivenUp(t *testing.T) {
	root := newRoot(t)
	lock := lockNow(t, root, 3)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var held *HeldError
	if _, err := root.Lock(ctx, 3); !errors.As(err, &held) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want a HeldError for the deadline", err)
	}
	expectFiles(t, root.Path, "3.lock")
	unlock(t, lock)
	again, err := root.Lock(t.Context(), 3)
	if err != nil {
		t.Fatal(err)
	}
	unlock(t, again)
}

// Somebody tidied up by hand: the first holder must not remove the file of the next.
func TestUnlockAfterRemoval(t *testing.T) {
	root := newRoot(t)
	path := filepath.Join(root.Path, "3.lock")
	first := lockNow(t, root, 3)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	second := lockNow(t, root, 3)
	unlock(t, first)
	expectFiles(t, root.Path, "3.lock")
	if _, err := root.Lock(ended(t), 3); err == nil {
		t.Error("locked although the second holder has it")
	}
	unlock(t, second)
	expectFiles(t, root.Path)
}

func TestLockRefusesLink(t *testing.T) {
	root := newRoot(t)
	if err := root.Dir(3).Create(); err != nil {
		t.Fatal(err)
	}
	victim := filepath.Join(t.TempDir(), "victim")
	if err := errors.Join(os.WriteFile(victim, []byte("data"), 0o600), os.Symlink(victim, filepath.Join(root.Path, "3.lock"))); err != nil {
		t.Fatal(err)
	}
	if _, err := root.Lock(ended(t), 3); err == nil {
		t.Error("a symbolic link was locked")
	}
	if data, err := os.ReadFile(victim); err != nil || string(data) != "data" {
		t.Errorf("the file behind the link is %q, %v", data, err)
	}
}

// Of several processes that want one name exactly one gets it.
func TestClaimNameOnce(t *testing.T) {
	root := newRoot(t)
	var outputs []*bufio.Scanner
	for id := range 5 {
		_, lines := start(t, root, "claim", id)
		outputs = append(outputs, lines)
	}
	count := map[string]int{}
	winner := -1
	for id, lines := range outputs {
		for lines.Scan() {
			count[lines.Text()]++
			if lines.Text() == "won" {
				winner = id
			}
		}
	}
	if count["won"] != 1 || count["taken"] != 4 {
		t.Fatalf("outcomes %v, want 1 won and 4 taken", count)
	}
	if id, err := root.Lookup("disk"); err != nil || id != winner {
		t.Errorf("Lookup = %d, %v, want %d", id, err, winner)
	}
	_, err := root.ClaimName(t.Context(), "disk")
	if !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), root.Dir(winner).Path) {
		t.Errorf("claimed again: %v, want fs.ErrExist with the folder", err)
	}
	if err := root.Dir(winner).Remove(); err != nil {
		t.Fatal(err)
	}
	lock, err := root.ClaimName(t.Context(), "disk")
	if err != nil {
		t.Fatal(err)
	}
	unlock(t, lock)
	expectFiles(t, root.Path)
}

func TestClaimNameOfKilledProcess(t *testing.T) {
	root := newRoot(t)
	holder, lines := start(t, root, "hold-name", 3)
	expectLine(t, lines, "held")
	var held *HeldError
	if _, err := root.ClaimName(ended(t), "disk"); !errors.As(err, &held) || held.PID != holder.Process.Pid {
		t.Errorf("got %v, want a HeldError with pid %d", err, holder.Process.Pid)
	}
	kill(t, holder)
	lock, err := root.ClaimName(ended(t), "disk")
	if err != nil {
		t.Fatal(err)
	}
	unlock(t, lock)
	expectFiles(t, root.Path)
	if _, err := root.ClaimName(t.Context(), "ublkb1"); err == nil {
		t.Error("a name of the kernel's was claimed")
	}
}
