package server

import (
	"encoding/json"

	"ublk/ctrl"
)

// Target is the disk behind a device.
type Target interface {
	// Params is the geometry and what the disk can do; asked once, before the
	// device is added. MaxSectors is filled in by the server.
	Params() ctrl.Params
	// Queue prepares the target for one queue, on that queue's thread before it
	// fetches. A handler that is an io.Closer is closed there at the end.
	Queue(*Queue) (Handler, error)
	// Close frees what the target holds, after the last queue has ended.
	Close() error
}

// Handler answers the requests of one queue, always on that queue's thread. It
// never blocks: it completes a request at once, or puts operations on the
// queue's ring, or hands the request to a goroutine that calls Finish.
type Handler interface{ Handle(*Request) }

// RingHandler is a Handler that puts operations on the queue's ring: Done is
// called with each one's result, on the queue's thread.
type RingHandler interface {
	Handler
	Done(r *Request, res int32)
}

// InlineHandler is a Handler that answers every request before Handle returns.
// For its queues no latencies are measured, which saves reading the clock.
type InlineHandler interface {
	Handler
	AnswersInline()
}

// Moder is a Target that names the data modes it can work in, best first. One
// that is no Moder works in DataCopy and DataUserCopy.
type Moder interface{ Modes() []DataMode }

// Resizer is a Target whose capacity can change while it is served. Resize is
// called off the queue threads, before the driver is told; growing must have
// succeeded when it returns.
type Resizer interface{ Resize(bytes int64) error }

// Noter is a Target with remarks for whoever made the disk, such as "buffered,
// because the file system has no direct I/O".
type Noter interface{ Notes() []string }

// Volatile is a Target whose content does not outlive its server: it says so,
// and the device cannot be asked for recovery.
type Volatile interface{ Volatile() string }

// FileTarget is a Target with files to register on every ring, so that handlers
// can name them by index: the first is file FirstFile.
type FileTarget interface{ Files() []int }

// Controller is a Target with settings that can be changed while it is served:
// Control is given what Ask was called with as Call.Settings, off the queue
// threads and one call at a time, and returns what the caller shall see.
type Controller interface {
	Control(json.RawMessage) (json.RawMessage, error)
}

// Waker is a Handler that other goroutines have news for: Wake is called on the
// queue's thread some time after Queue.Wake, once for one call or for many.
type Waker interface{ Wake() }

func modesOf(t Target) []DataMode {
	if m, ok := t.(Moder); ok {
		return m.Modes()
	}
	return []DataMode{DataCopy, DataUserCopy}
}
