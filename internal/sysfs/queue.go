package sysfs

import (
	"errors"
	"io/fs"
	"slices"
	"strconv"

	"ublk/internal/units"
)

// Queue is a hardware queue of a disk as the block layer sees it.
type Queue struct {
	Index        int // the same number as the ublk queue's
	Tags         int // the queue's depth
	ReservedTags int
	CPUs         []int // CPUs whose I/O comes here; empty while they are offline
}

// HasQueues says whether a disk has its hardware queues, which it loses early
// when it is being stopped. Unlike Queues it never blocks.
func (f *FS) HasQueues(id int) bool { return f.exists("sys/block", blockName(id), "mq") }

// Queues reads the hardware queues in the order of their numbers. A disk that is
// there without them is being stopped: that is no queues and no error.
func (f *FS) Queues(id int) ([]Queue, error) {
	folder := "sys/block/" + blockName(id)
	names, err := f.list(folder, "mq")
	if errors.Is(err, fs.ErrNotExist) {
		_, err = f.dev(folder)
		return nil, err
	}
	if err != nil {
		return nil, err
	}
	var queues []Queue
	for _, name := range names {
		index, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		a := attributes{fs: f, folder: folder + "/mq/" + name}
		queue := Queue{Index: index, Tags: int(a.number("nr_tags")), ReservedTags: int(a.number("nr_reserved_tags"))}
		if list := a.word("cpu_list"); list != "" {
			queue.CPUs, err = units.ParseCPUs(list)
			a.keep(err)
		}
		if a.err != nil {
			return nil, a.err
		}
		queues = append(queues, queue)
	}
	slices.SortFunc(queues, func(a, b Queue) int { return a.Index - b.Index })
	return queues, nil
}
