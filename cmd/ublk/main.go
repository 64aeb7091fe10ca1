// Command ublk administers, serves and watches ublk devices.
package main

import (
	"os"

	"ublk/cmd"
)

func main() { os.Exit(cmd.Main()) }
