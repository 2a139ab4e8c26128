package graph

import "github.com/plumbline-sec/plumbline/measure/mem"

// limits bound what one walk looks at and keeps. Those that an honest target's
// size decides follow its RAM: that is what its VMM gave it, where its own
// counters are what it claims. Between the floor and the ceiling of each, a walk
// keeps at most 4 % of the target's RAM.
type limits struct {
	objects  int // visited
	root     int // of them reached from one root
	elements int // of all containers, and nodes on the way to them; of one at most half
	nodes    int // objects kept at a time, 56 bytes each
	frames   int // pages of which something is known, some 150 bytes each
	reads    int // pages read, those that were read again included
	held     int // pages whose bytes are kept
	plain    int // objects kept before those that need not be are forgotten
}

// A machine with 1 GiB that just booted has about 60,000 objects. A dentry and
// its inode take some 800 to 1,300 bytes of a target, so one object for each KiB
// of RAM is more than it has room for.
const (
	minObjects, maxObjects = 1 << 20, 1 << 26
	minNodes, maxNodes     = 1 << 20, 1 << 22
	minFrames, maxFrames   = 1 << 18, 1 << 22
	maxHeld                = 1 << 14 // 64 MiB
	maxPlain               = 1 << 18

	maxDepth   = 1 << 16 // of objects that lead to each other; lists by ->next count
	maxTargets = 1 << 18 // distinct functions
)

// limitsFor returns the limits for a target with so many bytes of RAM.
func limitsFor(ram uint64) limits {
	objects := int(min(max(ram>>10, minObjects), maxObjects))
	return limits{
		objects: objects, root: objects / 2, elements: 2 * objects, reads: 4 * objects,
		nodes: int(min(max(ram>>12, minNodes), maxNodes)), frames: int(min(max(ram>>11, minFrames), maxFrames)),
		held: maxHeld, plain: maxPlain,
	}
}

// ramOf is how much RAM a target has.
func ramOf(memory mem.Reader) (size uint64) {
	for _, e := range memory.Extents() {
		size += e.Size
	}
	return size
}
