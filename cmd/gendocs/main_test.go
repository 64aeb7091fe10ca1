package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestUpToDate compares the committed files with what the program would write.
func TestUpToDate(t *testing.T) {
	files, err := generate()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join("../..", name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is out of date: go run ./cmd/gendocs (%v)", name, err)
		}
	}
	for _, folder := range []string{"man", "completions"} {
		entries, err := os.ReadDir(filepath.Join("../..", folder))
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			if _, ok := files[folder+"/"+entry.Name()]; !ok {
				t.Errorf("%s/%s belongs to no command any more", folder, entry.Name())
			}
		}
	}
}

func TestDeterministic(t *testing.T) {
	first, err := generate()
	if err != nil {
		t.Fatal(err)
	}
	second, err := generate()
	if err != nil {
		t.Fatal(err)
	}
	for name := range first {
		if !bytes.Equal(first[name], second[name]) {
			t.Errorf("%s differs from one time to the next", name)
		}
	}
}

func TestPageSections(t *testing.T) {
	files, err := generate()
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if !strings.HasPrefix(name, "man/") {
			continue
		}
		for _, section := range []string{"NAME", "SYNOPSIS", "DESCRIPTION", "EXIT STATUS", "SEE ALSO"} {
			if !bytes.Contains(content, []byte(".SH "+section+"\n")) {
				t.Errorf("%s has no section %s", name, section)
			}
		}
		for line := range strings.Lines(string(content)) {
			requests := []string{".TH", ".SH", ".SS", ".TP", ".PP", ".RS", ".RE", ".nf", ".fi", ".nh", ".ad", ".\\\""}
			if strings.HasPrefix(line, ".") && !slices.ContainsFunc(requests, func(r string) bool { return strings.HasPrefix(line, r) }) {
				t.Errorf("%s: line %q would be taken for a request", name, line)
			}
		}
	}
}

func TestEscape(t *testing.T) {
	for in, want := range map[string]string{`a-b\c`: `a\-b\ec`, "~": `\(ti`, "plain": "plain"} {
		if got := escape(in); got != want {
			t.Errorf("escape(%q) = %q, want %q", in, got, want)
		}
	}
	if got := leading(".TH"); got != `\&.TH` {
		t.Errorf("leading: %q", got)
	}
}
