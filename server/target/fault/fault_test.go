package fault

import (
	"encoding/json"
	"errors"
	"testing"

	"ublk/ctrl"
	"ublk/server"
	"ublk/server/target/mem"
	"ublk/server/target/null"
)

func onMem(t *testing.T, o Options) (server.Target, error) {
	t.Helper()
	disk, err := mem.New(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	target, err := New(disk, o)
	if err == nil {
		t.Cleanup(func() {
			if err := target.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	return target, err
}

// TestPassesOn is what the wrapped target says of itself.
func TestPassesOn(t *testing.T) {
	target, err := onMem(t, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := target.(server.Volatile); !ok {
		t.Error("a RAM disk with faults would be recovered")
	}
	if p := target.Params(); p.Basic.DevSectors != 2048 || p.Discard == nil || p.Basic.VolatileCache {
		t.Errorf("parameters %+v", p.Basic)
	}
	plain, err := New(null.New(1<<20), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := plain.(server.Volatile); ok {
		t.Error("a null disk with faults cannot be recovered")
	}
	if err := plain.(server.Resizer).Resize(1 << 21); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
}

func TestVolatileCacheParams(t *testing.T) {
	target, err := onMem(t, Options{VolatileCache: true})
	if err != nil {
		t.Fatal(err)
	}
	if p := target.Params(); !p.Basic.VolatileCache || !p.Basic.FUA || p.Discard != nil {
		t.Errorf("parameters %+v, discard %+v", p.Basic, p.Discard)
	}
	have := ctrl.Features(^uint64(0))
	if _, err := (server.Config{Type: "fault", Data: server.DataAutoReg}).Plan(target, have); err == nil {
		t.Error("a cache was put over data that never comes to the server")
	}
	if _, err := New(null.New(1<<20), Options{VolatileCache: true}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("a cache over null: %v", err)
	}
}

func TestControl(t *testing.T) {
	target, err := onMem(t, Options{Settings: map[string]string{"delay": "1ms"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ change, want string }{
		{`{}`, `{"delay":"1ms"}`},
		{`{"set":{"stuck":"1%"}}`, `{"delay":"1ms","stuck":"1%"}`},
		{`{"set":{"delay":""}}`, `{"stuck":"1%"}`},
		{`{"clear":true,"set":{"error-rate":"1"}}`, `{"error-rate":"1"}`},
		{`{"set":{"error-rate":"2"}}`, ""},
		{`{"set":{"torn":"1"}}`, ""}, // neither cache nor ring
		{`{"set":{"short-reads":"1"}}`, ""},
		{`{"set":{"short-writes":"1"}}`, ""},
		{`{"set":{"x":"1"}}`, ""},
		{`nonsense`, ""},
		{`{}`, `{"error-rate":"1"}`},
	} {
		got, err := target.(server.Controller).Control(json.RawMessage(tt.change))
		if string(got) != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s: %s, %v; want %s", tt.change, got, err, tt.want)
		}
	}
}
