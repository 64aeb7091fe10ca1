package ublk

import (
	"os/exec"
	"strings"
	"testing"
)

// allowed is the direction of imports: what each package of this module may
// import of this module. Never up, never sideways between targets.
var allowed = map[string]string{
	"internal/uapi":            "",
	"internal/units":           "",
	"internal/table":           "internal/units",
	"internal/rundir":          "",
	"internal/stats":           "",
	"internal/sysfs":           "internal/units",
	"internal/uring":           "internal/uapi",
	"internal/ctrldev":         "internal/uapi internal/uring",
	"internal/ctrldev/fake":    "internal/ctrldev internal/uapi",
	"ctrl":                     "internal/ctrldev internal/uapi",
	"internal/labtest":         "ctrl",
	"server":                   "ctrl internal/uapi internal/uring internal/stats internal/rundir internal/sysfs internal/units",
	"server/target/null":       "ctrl server",
	"server/target/loop":       "ctrl server",
	"server/target/mem":        "ctrl server",
	"server/target/fault":      "ctrl server internal/units",
	"server/target":            "ctrl server server/target/null server/target/loop server/target/mem server/target/fault internal/units",
	"server/target/targettest": "ctrl server internal/labtest internal/uapi",
	"tui":                      "internal/table internal/units",
	"internal/sample":          "ctrl tui internal/units internal/sysfs internal/stats internal/rundir",
	"internal/watch":           "ctrl server internal/rundir internal/sysfs internal/stats internal/units",
	"cmd":                      "*",
	"bench/meter":              "ctrl",
	"bench/cost":               "",
	"cmd/ublk":                 "cmd",
	"cmd/gendocs":              "cmd",
}

// outside are packages that only these parts of the module may import.
var outside = map[string]string{
	"github.com/spf13/cobra": "cmd cmd/gendocs",
	"charm.land/":            "tui cmd",
	"unsafe":                 "internal/uapi internal/uring internal/stats server",
}

func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		pkg := strings.TrimPrefix(words[0], "ublk/")
		may, known := allowed[pkg]
		if !known && pkg != "ublk" && !strings.HasPrefix(pkg, "lab") {
			t.Errorf("package %s is not in the table of imports", pkg)
		}
		for _, imp := range words[1:] {
			if own, ok := strings.CutPrefix(imp, "ublk/"); ok && may != "*" && !contains(may, own) {
				t.Errorf("%s imports %s", pkg, own)
			}
			for prefix, parts := range outside {
				if (imp == prefix || strings.HasPrefix(imp, prefix) && prefix != "unsafe") && !contains(parts, pkg) {
					t.Errorf("%s imports %s", pkg, imp)
				}
			}
		}
	}
}

func contains(list, word string) bool {
	for _, w := range strings.Fields(list) {
		if w == word {
			return true
		}
	}
	return false
}
