package loop

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestClaim is who may write to a file beside a loop that does.
func TestClaim(t *testing.T) {
	file := filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, 3<<20)); err != nil {
		t.Fatal(err)
	}
	first, err := Open(Options{File: file, Offset: 1 << 20, Size: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		o    Options
		want error
	}{
		{"all of it", Options{}, unix.EBUSY},
		{"its second half", Options{Offset: 3 << 19}, unix.EBUSY},
		{"what is before it", Options{Size: 1 << 20}, nil},
		{"what is behind it", Options{Offset: 2 << 20}, nil},
		{"only reading", Options{ReadOnly: true}, nil},
		{"knowing of it", Options{Shared: true}, nil},
	} {
		tt.o.File = file
		if got := opens(tt.o); !errors.Is(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
	if err := first.Resize(2 << 20); err != nil {
		t.Fatal(err)
	}
	if got := opens(Options{File: file, Offset: 2 << 20}); !errors.Is(got, unix.EBUSY) {
		t.Errorf("what it has grown over: %v", got)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if got := opens(Options{File: file}); got != nil {
		t.Errorf("after its end: %v", got)
	}
}

func opens(o Options) error {
	target, err := Open(o)
	if err != nil {
		return err
	}
	return target.Close()
}
