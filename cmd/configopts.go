package cmd

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"ublk/internal/rundir"
	"ublk/internal/units"
	"ublk/server"
	"ublk/server/target"
)

// configOption is an option that says how a device is made or served: it is
// checked while the command line is read, and applied to a configuration later,
// which for serve is the remembered one.
type configOption struct {
	name, short string
	value       string // what the help calls the value; "" for an option that is on or off
	usage       string
	bare        string   // what the option means without a value; "": it needs one
	words       []string // values, for completion
	file        bool     // the value is a file
	set         func(c *server.Config, value string) error
	serve       bool // changes how a device is served, not what it is: serve has it, too
}

func configOptions() []configOption {
	return []configOption{
		{name: "queues", short: "q", value: "QUEUES", usage: "number of queues (default 1; the driver allows one for each possible CPU)", set: number2(1, 4096, func(c *server.Config, n int) { c.Queues = n })},
		{name: "depth", short: "d", value: "DEPTH", usage: "tags of a queue, 1 to 4096 (default 128)", set: number2(1, 4096, func(c *server.Config, n int) { c.Depth = n })},
		{name: "max-io", value: "SIZE", usage: "largest request (default 512K)", set: setMaxIO},
		{name: "name", value: "NAME", usage: "name of the device, to be used wherever a number is", set: setName},
		{name: "recovery", short: "r", bare: "requeue", words: []string{"requeue\trequests that the dead server held fail, others wait", "reissue\tall wait, and those that it held are sent again", "fail\tall fail until there is a server"},
			value: "MODE", usage: "keep the disk when its server dies: requeue, reissue or fail", set: func(c *server.Config, v string) error { return c.Recovery.UnmarshalText([]byte(v)) }},
		{name: "data", words: server.DataModes(), value: "MODE", usage: "how data moves: auto, copy, user-copy, zero-copy, auto-reg (null also: none)", set: func(c *server.Config, v string) error { return c.Data.UnmarshalText([]byte(v)) }},
		{name: "zero-copy", bare: "true", usage: "the best zero-copy mode that there is", set: flag(func(c *server.Config, on bool) { c.Data = pick(on, server.DataZeroCopy, c.Data) })},
		{name: "user-copy", bare: "true", usage: "same as --data=user-copy", set: flag(func(c *server.Config, on bool) { c.Data = pick(on, server.DataUserCopy, c.Data) })},
		{name: "buffers", words: []string{"plain", "fixed\tregistered and pinned", "huge\ttransparent huge pages"}, serve: true, value: "KIND", usage: "I/O buffers: plain, fixed (registered and pinned) or huge (transparent huge pages)", set: setBuffers},
		{name: "batch", bare: "true", usage: "fetch and commit in batches (UBLK_F_BATCH_IO)", set: flag(func(c *server.Config, on bool) { c.Batch = on })},
		{name: "need-get-data", bare: "true", usage: "fetch the data of writes in a second step", set: flag(func(c *server.Config, on bool) { c.NeedGetData = on })},
		{name: "stats", words: []string{"on", "off"}, serve: true, value: "on|off", usage: "publish statistics (default on)", set: setStats},
		{name: "unprivileged", bare: "true", usage: "make a device of an ordinary user's", set: flag(func(c *server.Config, on bool) { c.Unprivileged = on })},
		{name: "read-only", bare: "true", usage: "make a read-only disk", set: flag(func(c *server.Config, on bool) { c.ReadOnly = on })},
		{name: "logical-block-size", value: "SIZE", usage: "logical block size (default: the target's)", set: setBlock(func(c *server.Config, n int) { c.LogicalBlock = n })},
		{name: "physical-block-size", value: "SIZE", usage: "physical block size (default: the target's)", set: setBlock(func(c *server.Config, n int) { c.PhysicalBlock = n })},
		{name: "no-partition-scan", bare: "true", usage: "do not look for partitions", set: flag(func(c *server.Config, on bool) { c.NoPartitionScan = on })},
		{name: "cpus", serve: true, value: "LIST", usage: "run queues on these CPUs, as in 0-3,8; auto: each on those of its own requests", set: setCPUs},
	}
}

// targetOptions are those of all targets. One name means one thing for all.
func targetOptions() []configOption {
	options := []configOption{{name: "type", short: "t", serve: true, words: kindWords(), value: "TYPE", usage: "type of disk: " + strings.Join(target.Names(), ", "), set: setType}}
	for _, kind := range target.Kinds() {
		for _, o := range kind.Options {
			i := slices.IndexFunc(options, func(c configOption) bool { return c.name == o.Name })
			if i >= 0 {
				options[i].usage += "; " + targetOption(kind.Name, o).usage
				continue
			}
			options = append(options, targetOption(kind.Name, o))
		}
	}
	return options
}

func targetOption(kind string, o target.Option) configOption {
	c := configOption{name: o.Name, short: o.Short, serve: true, file: o.Kind == target.Path, words: o.Words}
	c.value = map[target.OptionKind]string{target.Size: "SIZE", target.Path: "FILE", target.Text: "TEXT"}[o.Kind]
	c.usage = kind + ": " + o.Usage
	if o.Default != "" {
		c.usage += " (default " + o.Default + ")"
	}
	if o.Kind == target.Bool {
		c.bare = "true"
	}
	c.set = func(cfg *server.Config, text string) error {
		var err error
		switch o.Kind {
		case target.Size:
			_, err = units.ParseSize(text)
		case target.Path:
			text, err = filepath.Abs(text) // the server leaves this folder
		case target.Bool:
			_, err = strconv.ParseBool(text)
		}
		if err == nil && o.Check != nil {
			err = o.Check(text)
		}
		if err != nil {
			return err
		}
		if cfg.Options == nil {
			cfg.Options = map[string]string{}
		}
		cfg.Options[o.Name] = text
		return nil
	}
	return c
}

func kindWords() []string {
	var words []string
	for _, kind := range target.Kinds() {
		words = append(words, kind.Name+"\t"+kind.Summary)
	}
	return words
}

// configFlags are the options of one command.
type configFlags struct {
	set   *pflag.FlagSet
	given []*configFlag
}

// configFlag is one option on a command line.
type configFlag struct {
	configOption
	text string
}

// Set implements pflag.Value.
func (f *configFlag) Set(text string) error {
	var scratch server.Config
	if err := f.set(&scratch, text); err != nil {
		return err
	}
	f.text = text
	return nil
}

func (f *configFlag) String() string { return f.text }

// Type implements pflag.Value: what the help calls the value. "bool" it calls
// nothing; of a value that can be left out it shows what that means.
func (f *configFlag) Type() string {
	if f.value == "" || f.bare != "" {
		return "bool"
	}
	return f.value
}

// add gives cmd the options.
func (c *configFlags) add(cmd *cobra.Command, options []configOption) {
	c.set = cmd.Flags()
	for _, o := range options {
		f := &configFlag{configOption: o}
		c.given = append(c.given, f)
		c.set.VarP(f, o.name, o.short, o.usage)
		c.set.Lookup(o.name).NoOptDefVal = o.bare
		switch {
		case len(o.words) > 0:
			_ = cmd.RegisterFlagCompletionFunc(o.name, completeWords(o.words...))
		case o.file:
			_ = cmd.MarkFlagFilename(o.name)
		}
	}
}

// apply makes the configuration that was asked for out of cfg, and refuses
// options of other targets than its own.
func (c *configFlags) apply(cfg *server.Config) error {
	for _, f := range c.given {
		if c.set.Changed(f.name) {
			if err := f.set(cfg, f.text); err != nil {
				return usageError{err}
			}
		}
	}
	if cfg.Type == "" {
		return usagef("which type? --type %s", strings.Join(target.Names(), " or --type "))
	}
	if err := target.Check(*cfg); err != nil {
		return usageError{err}
	}
	return nil
}

// changed says whether an option was given.
func (c *configFlags) changed(name string) bool { return c.set.Changed(name) }

func pick[T any](first bool, a, b T) T {
	if first {
		return a
	}
	return b
}

// flag is an option that is on or off.
func flag(set func(*server.Config, bool)) func(*server.Config, string) error {
	return func(c *server.Config, text string) error {
		on, err := strconv.ParseBool(text)
		if err == nil {
			set(c, on)
		}
		return err
	}
}

// number2 is an option that is a whole number of a range.
func number2(least, most int, set func(*server.Config, int)) func(*server.Config, string) error {
	return func(c *server.Config, text string) error {
		n, err := number(least, most)(text)
		if err == nil {
			set(c, n)
		}
		return err
	}
}

func setMaxIO(c *server.Config, text string) error {
	n, err := units.ParseSize(text)
	if err == nil && (n == 0 || n > server.MaxMaxIO) {
		err = fmt.Errorf("at most %s", units.FormatSize(server.MaxMaxIO))
	}
	c.MaxIOBytes = uint32(n)
	return err
}

func setName(c *server.Config, text string) error {
	c.Name = text
	return rundir.ValidName(text)
}

func setType(c *server.Config, text string) error {
	if !slices.Contains(target.Names(), text) {
		return fmt.Errorf("one of %s", strings.Join(target.Names(), ", "))
	}
	if c.Type != text {
		c.Type, c.Options = text, nil
	}
	return nil
}

func setBuffers(c *server.Config, text string) error {
	c.Buffers = server.Buffers(text)
	if !slices.Contains([]server.Buffers{server.BuffersPlain, server.BuffersFixed, server.BuffersHuge}, c.Buffers) {
		return fmt.Errorf("one of plain, fixed, huge")
	}
	return nil
}

func setStats(c *server.Config, text string) error {
	if text != "on" && text != "off" {
		return fmt.Errorf("on or off")
	}
	c.NoStats = text == "off"
	return nil
}

func setBlock(set func(*server.Config, int)) func(*server.Config, string) error {
	return func(c *server.Config, text string) error {
		n, err := units.ParseSize(text)
		if err == nil && (n < 512 || n > 1<<28 || n&(n-1) != 0) {
			err = fmt.Errorf("a power of two of at least 512")
		}
		set(c, int(n))
		return err
	}
}

func setCPUs(c *server.Config, text string) error {
	if c.Affinity = text == "auto"; c.Affinity {
		c.CPUs = nil
		return nil
	}
	var err error
	c.CPUs, err = units.ParseCPUs(text)
	return err
}
