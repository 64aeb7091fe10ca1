// Package server is the data plane: a ublk device being served by this process.
//
// A Target is the disk behind a device. Every queue of the device is one
// goroutine on an OS thread of its own (Queue), which sets up its ring, fetches,
// serves and tears down there; a Handler answers that queue's requests on that
// thread and never blocks it. Backends that are ordinary blocking Go go through
// FromBackend, which moves them off the queue threads.
//
// Ownership: a Request belongs to the handler from Handle until it calls
// Complete (on the queue's thread) or Finish (from anywhere); its descriptor and
// buffer must not be touched after that. All memory that the kernel is given is
// mapped by this program and outlives every operation on it.
package server
