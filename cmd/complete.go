package cmd

import (
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

// completeDevices offers the devices that there are, and the names of our own.
// It needs no privileges and does not open the control node.
func (a *app) completeDevices(_ *cobra.Command, given []string, typed string) ([]string, cobra.ShellCompDirective) {
	ids, err := a.fs.Devices()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	seen := map[string]bool{}
	for _, arg := range given {
		seen[arg] = true
	}
	var offers []string
	offer := func(word, help string) {
		if strings.HasPrefix(word, typed) && !seen[word] {
			offers = append(offers, word+"\t"+help)
		}
	}
	for _, id := range ids {
		number := strconv.Itoa(id)
		name, help := "", "device "+number
		if stored, err := a.state.Dir(id).ReadConfig(); err == nil && stored.Name != "" {
			name = stored.Name
			help += " " + name
		}
		offer(number, help)
		if name != "" {
			offer(name, help)
		}
		if strings.HasPrefix(typed, "/") || strings.HasPrefix(typed, "u") {
			offer("ublkb"+number, help)
			offer("/dev/ublkb"+number, help)
		}
	}
	return offers, cobra.ShellCompDirectiveNoFileComp
}

// completeWords offers fixed words, each with its help after a tab if it has any.
func completeWords(words ...string) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		var offers []string
		for _, word := range words {
			if strings.HasPrefix(word, typed) {
				offers = append(offers, word)
			}
		}
		return offers, cobra.ShellCompDirectiveNoFileComp
	}
}
