package watch

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
)

func TestInOrder(t *testing.T) {
	broken := errors.New("broken")
	for _, tt := range []struct {
		name  string
		steps []Step
		fails int   // this device does
		done  []int // these are
		errs  []error
	}{
		{"apart", []Step{{ID: 1}, {ID: 2}}, 0, []int{1, 2}, []error{nil, nil}},
		{"a stack, given upside down", []Step{{3, []int{2}}, {2, []int{1}}, {ID: 1}}, 0, []int{1, 2, 3}, []error{nil, nil, nil}},
		{"on one that is not asked for", []Step{{3, []int{9}}}, 0, []int{3}, []error{nil}},
		{"the lower fails", []Step{{3, []int{2}}, {2, []int{1}}, {ID: 1}, {ID: 4}}, 1, []int{4}, []error{errFailed, errFailed, broken, nil}},
		{"on itself", []Step{{1, []int{1}}, {ID: 2}}, 0, []int{2}, []error{errItself, nil}},
		{"a circle", []Step{{1, []int{2}}, {2, []int{1}}, {3, []int{1}}}, 0, nil, []error{errCircle, errCircle, errFailed}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var mu sync.Mutex
			var done []int
			errs := InOrder(t.Context(), tt.steps, func(_ context.Context, i int) error {
				mu.Lock()
				defer mu.Unlock()
				if tt.steps[i].ID == tt.fails {
					return broken
				}
				done = append(done, tt.steps[i].ID)
				for _, lower := range tt.steps[i].Below {
					if lower != 9 && !slices.Contains(done, lower) {
						t.Errorf("%d was done before %d", tt.steps[i].ID, lower)
					}
				}
				return nil
			})
			slices.Sort(done)
			if !slices.Equal(done, tt.done) {
				t.Errorf("done %v, want %v", done, tt.done)
			}
			for i, want := range tt.errs {
				if !errors.Is(errs[i], want) || want == nil && errs[i] != nil {
					t.Errorf("device %d: %v, want %v", tt.steps[i].ID, errs[i], want)
				}
			}
		})
	}
}
