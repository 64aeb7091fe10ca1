package fault

// chance is a source of numbers that are random and always the same: each
// depends on the seed, the count and what it is for, and on nothing that was
// drawn before. So one kind of fault does not change the course of another.
type chance uint64

// What a number is drawn for.
const (
	forStuck = iota
	forError
	forDelay
	forSpread
	forShort
	forLength
	forTorn
	forQueue
	purposes
)

// at is the n-th number for a purpose, from 0 up to but not including 1.
func (c chance) at(n uint64, purpose int) float64 {
	return float64(c.bits(n, purpose)>>11) / (1 << 53)
}

func (c chance) bits(n uint64, purpose int) uint64 {
	return mix(mix(uint64(c)) + n*purposes + uint64(purpose))
}

// of is the source of one queue.
func (c chance) of(queue int) chance { return chance(c.bits(uint64(queue), forQueue)) }

// mix is the output function of SplitMix64 (Steele, Lea, Flood 2014): neighbours
// become unlike each other.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
