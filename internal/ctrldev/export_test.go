package ctrldev

import (
	"encoding/gob"
	"io"
)

// EncodeRequest writes a command as Detached sends it to its helper.
func EncodeRequest(w io.Writer, c Command) error { return gob.NewEncoder(w).Encode(request{c}) }
