package server

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"ublk/internal/uapi"
	"ublk/internal/uring"
)

// TestBatchCommitted is a commit of which the driver takes only a part: the rest
// goes out again, in order and with its results, round the end of the memory too.
func TestBatchCommitted(t *testing.T) {
	const depth = 4
	b := &batches{elem: 8, room: 4 * depth, mem: make([]byte, 4*depth*8)}
	b.elems = uring.View[uapi.BatchElem](b.mem)
	q := &Queue{batches: b, reqs: make([]Request, depth)}
	for tag := range q.reqs {
		q.reqs[tag].tag = uint16(tag)
	}
	commit := func(tags ...int) (from, elements int) {
		for _, tag := range tags {
			b.add(&q.reqs[tag], int32(100+tag))
		}
		from, elements = b.from, b.to-b.from
		b.from = b.to // as commitBatch does
		return from, elements
	}
	waiting := func() (tags []int) {
		for _, e := range b.elems[b.from:b.to] {
			if e.Result != int32(100+e.Tag) {
				t.Errorf("tag %d is answered with %d", e.Tag, e.Result)
			}
			tags = append(tags, int(e.Tag))
		}
		return tags
	}
	for round := range 20 {
		from, elements := commit(2, 0, 3, 1)
		taken := round % (depth + 1)
		res := int32(taken * b.elem)
		if taken == 0 {
			res = -int32(unix.EAGAIN)
		}
		q.batchCommitted(from, elements, res)
		if got, want := waiting(), []int{2, 0, 3, 1}[taken:]; !slices.Equal(got, want) || q.err != nil {
			t.Fatalf("round %d: of 4 answers %d were taken, and %v wait, want %v; %v", round, taken, got, want, q.err)
		}
		b.from = b.to // the rest was taken
	}
	from, elements := commit(1)
	if q.batchCommitted(from, elements, -int32(unix.EINVAL)); q.err == nil {
		t.Error("a commit that cannot be cured goes on")
	}
}
