package tui

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"ublk/internal/table"
)

func TestBatch(t *testing.T) {
	var out bytes.Buffer
	o := BatchOptions{Interval: minInterval, Count: 2, Title: true}
	if err := Batch(t.Context(), &out, demo(), o); err != nil {
		t.Fatal(err)
	}
	samples := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n\n")
	if len(samples) != 2 || samples[0] != samples[1] {
		t.Fatalf("%d samples:\n%s", len(samples), out.String())
	}
	lines := strings.Split(samples[0], "\n")
	if len(lines) != 2+5 || !strings.HasPrefix(lines[0], "ublk top   5 devices, 2 live, 1 QUIESCED") || !strings.Contains(lines[4], "912 gone 8s · 16 held") {
		t.Errorf("sample:\n%s", samples[0])
	}
	out.Reset()
	o.ASCII = true
	if err := Batch(t.Context(), &out, demo(), o); err != nil || strings.ContainsFunc(out.String(), func(r rune) bool { return r > '~' }) {
		t.Errorf("not ASCII: %v\n%s", err, out.String())
	}
}

func TestBatchJSON(t *testing.T) {
	var out bytes.Buffer
	o := BatchOptions{Interval: minInterval, Count: 1, Only: []int{1, 10}, Table: table.Options{Format: table.JSON}}
	if err := Batch(t.Context(), &out, demo(), o); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines", len(lines))
	}
	var null, dead map[string]any
	if json.Unmarshal([]byte(lines[0]), &null) != nil || json.Unmarshal([]byte(lines[1]), &dead) != nil {
		t.Fatal(out.String())
	}
	for key, want := range map[string]any{
		"time": "2026-08-01T14:02:11Z", "id": 1.0, "state": "LIVE", "in_flight": 128.0, "iops": 1.1e6, "p99_ns": 39000.0, "errors": 3.0, "server_pid": 4502.0,
		"server_cpu": 0.9, "queues": 2.0, "name": nil, "unresponsive_seconds": nil,
	} {
		if got, there := null[key]; !there || got != want {
			t.Errorf("%s is %v, want %v", key, got, want)
		}
	}
	for key, value := range dead {
		if value == nil || slices.Contains([]string{"id", "time", "state", "health", "recovery", "queues", "depth", "server"}, key) {
			continue
		}
		t.Errorf("a dead device has %s: %v", key, value)
	}
}

func TestBatchEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Batch(ctx, io.Discard, demo(), BatchOptions{Interval: time.Hour}); err != nil {
		t.Error(err)
	}
}

func TestTables(t *testing.T) {
	if err := Devices().Check(); err != nil {
		t.Error(err)
	}
	if err := Lines(nil).Check(); err != nil {
		t.Error(err)
	}
}
