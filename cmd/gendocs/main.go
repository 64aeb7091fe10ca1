// Command gendocs writes the manual (man/) and the completion scripts
// (completions/) into the folder given, or into the current one. The output
// depends on nothing but the program.
package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"ublk/cmd"
)

func main() {
	folder := "."
	if len(os.Args) > 1 {
		folder = os.Args[1]
	}
	if err := write(folder); err != nil {
		fmt.Fprintln(os.Stderr, "gendocs:", err)
		os.Exit(1)
	}
}

// write writes all files below folder.
func write(folder string) error {
	files, err := generate()
	if err != nil {
		return err
	}
	for name, content := range files {
		file := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// generate returns the content of all files by their names.
func generate() (map[string][]byte, error) {
	root := cmd.NewCommand()
	files := map[string][]byte{"man/ublk.8": introduction(root)}
	for _, command := range root.Commands() {
		if documented(command) {
			files["man/ublk-"+command.Name()+".8"] = commandPage(root, command)
		}
	}
	for shell, name := range map[string]string{"bash": "ublk.bash", "zsh": "_ublk", "fish": "ublk.fish"} {
		var script bytes.Buffer
		if err := cmd.WriteCompletion(&script, root, shell); err != nil {
			return nil, err
		}
		files["completions/"+name] = script.Bytes()
	}
	return files, nil
}

// documented says whether a command is for people: cobra calls its help
// unavailable.
func documented(c *cobra.Command) bool { return c.IsAvailableCommand() || c.Name() == "help" }
