package target

import (
	"fmt"
	"maps"
	"strconv"

	"ublk/server"
	"ublk/server/target/fault"
)

// faultOptions are those of a disk with faults: what is wrapped, what it starts
// out with, and the settings that can be changed later.
func faultOptions() []Option {
	options := []Option{
		{Name: "on", Kind: Text, Required: true, Words: []string{"loop", "mem", "null"}, Usage: "disk of `TYPE` to wrap; its options are given as well"},
		{Name: "volatile-cache", Kind: Bool, Usage: "keep writes in memory until a flush: they are lost when the server is killed"},
		{Name: "seed", Kind: Text, Default: "0", Check: checkSeed, Usage: "`NUMBER` that all chance depends on"},
	}
	for _, s := range fault.Settings() {
		options = append(options, Option{Name: s.Name, Kind: Text, Check: s.Check, Usage: s.Usage})
	}
	return options
}

func checkSeed(text string) error {
	_, err := parseSeed(text)
	return err
}

func parseSeed(text string) (uint64, error) {
	seed, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is no whole number", text)
	}
	return seed, nil
}

// openFault opens the wrapped target with what is left of the options.
func openFault(options map[string]string, cfg server.Config) (server.Target, error) {
	o := fault.Options{Settings: map[string]string{}, VolatileCache: options["volatile-cache"] == "true"}
	if text, ok := options["seed"]; ok {
		seed, err := parseSeed(text)
		if err != nil {
			return nil, fmt.Errorf("--seed: %w", err)
		}
		o.Seed = seed
	}
	for _, s := range fault.Settings() {
		o.Settings[s.Name] = options[s.Name]
	}
	inner := cfg
	inner.Type, inner.Options = options["on"], maps.Clone(options)
	for _, own := range faultOptions() {
		delete(inner.Options, own.Name)
	}
	disk, err := Open(inner)
	if err != nil {
		return nil, err
	}
	return fault.New(disk, o)
}
