package ctrl

import (
	"encoding/binary"
	"os"

	"ublk/internal/ctrldev"
)

func serveHelper() error {
	drv, err := ctrldev.Open()
	if err != nil {
		return openError(err)
	}
	defer drv.Close()
	return ctrldev.Serve(drv, os.Stdin, os.Stdout)
}

// nativeUint64 reads a number as the kernel of this machine stores it.
func nativeUint64(b []byte) uint64 { return binary.NativeEndian.Uint64(b) }
