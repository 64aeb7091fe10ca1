package sysfs

import (
	"fmt"
	"io/fs"
	"iter"
	"math/bits"
	"strconv"
	"strings"
)

const debugBlock = "sys/kernel/debug/block"

// CheckDebugfs returns nil if the block layer's debugfs files can be read, and
// otherwise why not: fs.ErrPermission, or fs.ErrNotExist where debugfs is not
// mounted or the kernel is built without CONFIG_BLK_DEBUG_FS.
func (f *FS) CheckDebugfs() error {
	_, err := f.list(debugBlock)
	return err
}

// TagSet is a set of tag numbers, one bit each.
type TagSet []uint64

// Has says whether a tag is in the set.
func (s TagSet) Has(tag int) bool {
	return tag >= 0 && tag/64 < len(s) && s[tag/64]&(1<<(tag%64)) != 0
}

// Count returns how many tags are in the set.
func (s TagSet) Count() int {
	count := 0
	for _, word := range s {
		count += bits.OnesCount64(word)
	}
	return count
}

// All yields the tags in ascending order.
func (s TagSet) All() iter.Seq[int] {
	return func(yield func(int) bool) {
		for i, word := range s {
			for ; word != 0; word &= word - 1 {
				if !yield(64*i + bits.TrailingZeros64(word)) {
					return
				}
			}
		}
	}
}

// Request is a line of the files that list requests.
type Request struct {
	// Pointer tells one request slot from another during one boot. It is a hash,
	// and 0 if the kernel had no key for the hash yet.
	Pointer     uint64
	Op          string   // READ, WRITE, FLUSH, DISCARD, WRITE_ZEROES …, a number if the kernel has no name
	Flags       []string // of the command: SYNC, FUA, …
	RQFlags     []string // of the request: STARTED, IO_STAT, …
	State       string   // idle, in_flight, complete
	Tag         int      // ublk's tag; -1 is none
	InternalTag int      // the scheduler's tag; -1 is none
}

// TagsBitmap reads which driver tags of a queue are allocated: started, parked, or about to start.
func (f *FS) TagsBitmap(id, queue int) (TagSet, error) {
	data, err := f.word(debugBlock, blockName(id), hctx(queue), "tags_bitmap")
	if err != nil {
		return nil, err
	}
	return parseBitmap(data)
}

// Busy reads the started requests of a queue. It returns those that it
// understood beside an error about one that it did not.
func (f *FS) Busy(id, queue int) ([]Request, error) {
	return f.requests(debugBlock, blockName(id), hctx(queue), "busy")
}

// Dispatch reads the requests of a queue that wait for a driver tag; errors as for Busy.
func (f *FS) Dispatch(id, queue int) ([]Request, error) {
	return f.requests(debugBlock, blockName(id), hctx(queue), "dispatch")
}

// RequeueList reads the parked requests of all queues together; errors as for
// Busy. Kernel 6.12 parks most requests where no file shows them.
func (f *FS) RequeueList(id int) ([]Request, error) {
	return f.requests(debugBlock, blockName(id), "requeue_list")
}

// QueueState reads the flags of the disk's request queue: SAME_COMP, QUIESCED,
// DYING … Under lockdown that is fs.ErrPermission even for root.
func (f *FS) QueueState(id int) ([]string, error) {
	text, err := f.word(debugBlock, blockName(id), "state")
	return flags(text), err
}

// HCTXState reads the flags of one hardware queue: STOPPED, TAG_ACTIVE, SCHED_RESTART, INACTIVE.
func (f *FS) HCTXState(id, queue int) ([]string, error) {
	text, err := f.word(debugBlock, blockName(id), hctx(queue), "state")
	return flags(text), err
}

func hctx(queue int) string { return "hctx" + strconv.Itoa(queue) }

func (f *FS) requests(elements ...string) ([]Request, error) {
	text, err := f.word(elements...)
	if err != nil {
		return nil, err
	}
	requests, err := parseRequests(text)
	if err != nil {
		return requests, &fs.PathError{Op: "parse", Path: f.path(elements...), Err: err}
	}
	return requests, nil
}

// maxBitmapBytes is far above the deepest queue there can be (BLK_MQ_MAX_DEPTH, 10240 tags).
const maxBitmapBytes = 1 << 16

// parseBitmap reads a hex dump of bytes in memory order: "%08x:" the offset, then
// sixteen bytes in groups of two, the last of which may be one byte.
func parseBitmap(text string) (TagSet, error) {
	var set TagSet
	count := 0 // bytes so far
	for line := range strings.Lines(text) {
		label, dump, found := strings.Cut(strings.TrimSpace(line), ":")
		offset, err := strconv.ParseUint(label, 16, 32)
		if !found || err != nil || offset != uint64(count) {
			return nil, fmt.Errorf("bitmap line %q does not start at byte %x", strings.TrimSpace(line), count)
		}
		for group := range strings.FieldsSeq(dump) {
			for ; len(group) >= 2; group = group[2:] {
				value, err := strconv.ParseUint(group[:2], 16, 8)
				if err != nil || count == maxBitmapBytes {
					return nil, fmt.Errorf("bitmap line %q is not a hex dump", strings.TrimSpace(line))
				}
				if count%8 == 0 {
					set = append(set, 0)
				}
				set[count/8] |= value << (8 * (count % 8))
				count++
			}
			if group != "" {
				return nil, fmt.Errorf("bitmap line %q has half a byte", strings.TrimSpace(line))
			}
		}
	}
	return set, nil
}

// parseRequests reads request lines (blk-mq-debugfs.c:__blk_mq_debugfs_rq_show),
// skipping what it does not understand and reporting the first of that.
func parseRequests(text string) ([]Request, error) {
	var requests []Request
	var first error
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		request, err := parseRequest(line)
		if err == nil {
			requests = append(requests, request)
		} else if first == nil {
			first = err
		}
	}
	return requests, first
}

// parseRequest reads one line: POINTER {.op=OP, .cmd_flags=A|B, …}. The driver may
// add fields of its own at the end.
func parseRequest(line string) (Request, error) {
	pointer, body, found := strings.Cut(line, " {")
	if !found || !strings.HasSuffix(body, "}") {
		return Request{}, fmt.Errorf("request line %q has no braces", line)
	}
	request := Request{Tag: -1, InternalTag: -1}
	if !strings.HasPrefix(pointer, "(") { // (____ptrval____)
		var err error
		if request.Pointer, err = strconv.ParseUint(pointer, 16, 64); err != nil {
			return Request{}, fmt.Errorf("request line %q does not start with a pointer", line)
		}
	}
	for field := range strings.SplitSeq(strings.TrimSuffix(body, "}"), ", ") {
		key, value, _ := strings.Cut(field, "=")
		if err := request.set(key, value); err != nil {
			return Request{}, fmt.Errorf("request line %q: %w", line, err)
		}
	}
	if request.Op == "" || request.State == "" {
		return Request{}, fmt.Errorf("request line %q has no operation or no state", line)
	}
	return request, nil
}

func (r *Request) set(key, value string) (err error) {
	switch key {
	case ".op":
		r.Op = value
	case ".cmd_flags":
		r.Flags = flags(value)
	case ".rq_flags":
		r.RQFlags = flags(value)
	case ".state":
		r.State = value
	case ".tag":
		r.Tag, err = strconv.Atoi(value)
	case ".internal_tag":
		r.InternalTag, err = strconv.Atoi(value)
	}
	return err
}

// flags splits "A|B"; the empty text is no flags.
func flags(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, "|")
}
