package watch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"ublk/ctrl"
	"ublk/internal/sysfs"
	"ublk/server"
)

// Below lists the devices that a device of this configuration is built on: its
// backing file lies on them. It never waits for one of them.
func Below(cfg server.Config) ([]int, error) {
	file := cfg.Options["file"]
	if file == "" {
		return nil, nil
	}
	s, err := newStack("/")
	if err != nil {
		return nil, err
	}
	return s.below(file)
}

// Step is a device in a recovery of several.
type Step struct {
	ID    int
	Below []int // see Below
}

// StackError is a device that cannot be recovered because of one below it.
type StackError struct {
	ID, Lower int
	Err       error
}

func (e *StackError) Error() string {
	return fmt.Sprintf("device %d is built on device %d: %v", e.ID, e.Lower, e.Err)
}

// Unwrap returns what is wrong with the lower device.
func (e *StackError) Unwrap() error { return e.Err }

var (
	errCircle = errors.New("which is built on it: neither can come before the other")
	errItself = errors.New("on itself: its backing file cannot be reached without it")
	errFailed = errors.New("which could not be recovered")
)

// InOrder does something to devices side by side, to each after all that it is
// built on. Where that fails, or the devices stand in a circle, it is not done.
// The errors are those of the steps, by their index.
func InOrder(ctx context.Context, steps []Step, do func(ctx context.Context, i int) error) []error {
	errs := make([]error, len(steps))
	done := make([]chan struct{}, len(steps))
	index := map[int]int{}
	for i, s := range steps {
		index[s.ID] = i
		done[i] = make(chan struct{})
	}
	var wg sync.WaitGroup
	for i, s := range steps {
		wg.Go(func() {
			defer close(done[i])
			if errs[i] = circle(steps, index, i); errs[i] != nil {
				return
			}
			for _, lower := range s.Below {
				j, ok := index[lower]
				if !ok {
					continue
				}
				<-done[j]
				if errs[j] != nil {
					errs[i] = &StackError{s.ID, lower, errFailed}
					return
				}
			}
			errs[i] = do(ctx, i)
		})
	}
	wg.Wait()
	return errs
}

// circle finds a way down from a step that leads back to it.
func circle(steps []Step, index map[int]int, from int) error {
	seen := map[int]bool{}
	var down func(i int) bool
	down = func(i int) bool {
		for _, lower := range steps[i].Below {
			j, ok := index[lower]
			if !ok || seen[j] {
				continue
			}
			if j == from {
				return true
			}
			if seen[j] = true; down(j) {
				return true
			}
		}
		return false
	}
	s := steps[from]
	switch {
	case slices.Contains(s.Below, s.ID):
		return &StackError{s.ID, s.ID, errItself}
	case down(from):
		return &StackError{s.ID, s.Below[0], errCircle}
	}
	return nil
}

// Standing makes sure that the devices below another one have servers, without
// which a look at its backing file would hang. Those in other are seen to
// otherwise.
func Standing(ctx context.Context, client *ctrl.Client, machine *sysfs.FS, s Step, other func(id int) bool) error {
	for _, lower := range s.Below {
		if lower == s.ID {
			return &StackError{s.ID, s.ID, errItself}
		}
		if other(lower) {
			continue
		}
		info, err := client.Info(ctx, lower)
		switch {
		case err != nil:
		case info.State != ctrl.Live:
			err = fmt.Errorf("which is %s and has no server", info.State)
		case !server.Alive(machine, &info):
			err = errors.New("whose server has just died")
		}
		if err != nil {
			return &StackError{s.ID, lower, err}
		}
	}
	return nil
}
