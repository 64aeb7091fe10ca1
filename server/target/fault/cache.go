package fault

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Sizes of the cache.
const (
	cacheLimit = 256 << 20 // bytes: a fuller cache is written out by itself
	chunkSize  = 1 << 20   // bytes: memory is taken, and the disk written, in these
)

// cache is the volatile write cache of a disk: what is written stays in memory
// until a flush, and is lost with the process. It is a server.Backend. Memory
// is mapped, so that the disk under it can be one with direct I/O, and given
// back at the end only.
type cache struct {
	disk   Disk
	block  int // bytes, the unit in which writes are kept and torn
	chance chance
	plan   *atomic.Pointer[plan]
	blocks atomic.Uint64 // written, for chance

	flush sync.Mutex // held by who writes to the disk in bulk; before mu
	stage []byte     // of who holds it

	mu       sync.RWMutex     // readers hold it over the read of the disk, too
	dirty    map[int64][]byte // by number of the block
	flushing map[int64][]byte // on the way to the disk; older than dirty
	free     [][]byte
	chunks   [][]byte
}

func newCache(disk Disk, block int, c chance, p *atomic.Pointer[plan]) (*cache, error) {
	stage, err := mapped()
	return &cache{disk: disk, block: block, chance: c, plan: p, stage: stage, dirty: map[int64][]byte{}}, err
}

func mapped() ([]byte, error) {
	mem, err := unix.Mmap(-1, 0, chunkSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	return mem, os.NewSyscallError("mmap", err)
}

// ReadAt implements io.ReaderAt: the disk, and over it what is newer.
func (c *cache) ReadAt(p []byte, off int64) (int, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if n, err := c.disk.ReadAt(p, off); n < len(p) {
		return n, err
	}
	for i := 0; i < len(p); i += c.block {
		number := (off + int64(i)) / int64(c.block)
		if data, ok := c.dirty[number]; ok {
			copy(p[i:], data)
		} else if data, ok := c.flushing[number]; ok {
			copy(p[i:], data)
		}
	}
	return len(p), nil
}

// WriteAt implements io.WriterAt: it keeps the data in memory, and lets some
// blocks through, if writes are to be torn. A full cache is flushed.
func (c *cache) WriteAt(p []byte, off int64) (int, error) {
	full, err := c.keep(p, off)
	if err != nil {
		return 0, err
	}
	c.tear(p, off)
	if full {
		if err := c.Flush(); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func (c *cache) keep(p []byte, off int64) (full bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := 0; i < len(p); i += c.block {
		number := (off + int64(i)) / int64(c.block)
		data := c.dirty[number]
		if data == nil {
			if data, err = c.take(); err != nil {
				return false, err
			}
			c.dirty[number] = data
		}
		copy(data, p[i:])
	}
	return len(c.dirty)*c.block >= cacheLimit, nil
}

// take is memory for one block.
func (c *cache) take() ([]byte, error) {
	if len(c.free) == 0 {
		chunk, err := mapped()
		if err != nil {
			return nil, err
		}
		c.chunks = append(c.chunks, chunk)
		c.free = slices.AppendSeq(c.free, slices.Chunk(chunk, c.block))
	}
	last := len(c.free) - 1
	data := c.free[last]
	c.free = c.free[:last]
	return data, nil
}

// tear writes some blocks of a write to the disk at once. An error is no
// matter: they are in the cache as well.
func (c *cache) tear(p []byte, off int64) {
	torn := c.plan.Load().torn
	if torn == 0 {
		return
	}
	for i := 0; i < len(p); i += c.block {
		if c.chance.at(c.blocks.Add(1), forTorn) < torn {
			_, _ = c.disk.WriteAt(p[i:i+c.block], off+int64(i))
		}
	}
}

// WriteSync implements server.SyncWriter. Older content of its blocks is on its
// way to the disk no more when it writes, and forgotten afterwards.
func (c *cache) WriteSync(p []byte, off int64) error {
	c.flush.Lock()
	defer c.flush.Unlock()
	if _, err := c.disk.WriteAt(p, off); err != nil {
		return err
	}
	if err := c.disk.Sync(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := 0; i < len(p); i += c.block {
		number := (off + int64(i)) / int64(c.block)
		if data, ok := c.dirty[number]; ok {
			c.free = append(c.free, data)
			delete(c.dirty, number)
		}
	}
	return nil
}

// Flush implements server.Flusher. What could not be written stays.
func (c *cache) Flush() error {
	c.flush.Lock()
	defer c.flush.Unlock()
	c.mu.Lock()
	c.flushing, c.dirty = c.dirty, map[int64][]byte{}
	c.mu.Unlock()
	err := c.writeOut()
	if err == nil {
		err = c.disk.Sync()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for number, data := range c.flushing {
		if _, newer := c.dirty[number]; err != nil && !newer {
			c.dirty[number] = data
		} else {
			c.free = append(c.free, data)
		}
	}
	c.flushing = nil
	return err
}

// writeOut writes all of flushing, which nobody changes meanwhile, in runs of
// neighbouring blocks.
func (c *cache) writeOut() error {
	numbers := slices.Sorted(maps.Keys(c.flushing))
	for len(numbers) > 0 {
		run := 0
		for ; run < len(numbers) && run < chunkSize/c.block && numbers[run] == numbers[0]+int64(run); run++ {
			copy(c.stage[run*c.block:], c.flushing[numbers[run]])
		}
		if _, err := c.disk.WriteAt(c.stage[:run*c.block], numbers[0]*int64(c.block)); err != nil {
			return fmt.Errorf("volatile cache: %w", err)
		}
		numbers = numbers[run:]
	}
	return nil
}

// close writes everything out and frees the memory.
func (c *cache) close() error {
	err := c.Flush()
	for _, chunk := range append(c.chunks, c.stage) {
		err = errors.Join(err, unix.Munmap(chunk))
	}
	return err
}
