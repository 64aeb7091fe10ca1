package sysfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tree makes a root folder of files: path to content, or path to "-> target" for
// a symbolic link. A device node is a link to a path named in nodes.
func tree(t *testing.T, files map[string]string) *FS {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, isLink := strings.CutPrefix(content, "-> "); isLink {
			err = os.Symlink(target, file)
		} else {
			err = os.WriteFile(file, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return New(root)
}

// withNodes makes the paths that end in, or are links to, a name the nodes of devices.
func withNodes(f *FS, nodes map[string]Node) *FS {
	f.device = func(path string) (Node, error) {
		name := strings.TrimPrefix(path, f.root)
		if target, err := os.Readlink(path); err == nil {
			name = target
		}
		if node, ok := nodes[name]; ok {
			return node, nil
		}
		return Node{}, fs.ErrNotExist
	}
	return f
}

func wantNotExist(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s: got %v, want fs.ErrNotExist", what, err)
	}
}
