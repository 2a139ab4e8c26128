package main

import (
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// A capture keeps a table of all names and makes much garbage beside it. Up to
// freeMemory of both together hardly anything is collected. Once more than
// largeHeap is in use, what is garbage may be a third of that: more is worth less
// than the rest of the machine's memory.
const (
	freeMemory = 80 << 20
	largeHeap  = 48 << 20
	largeGC    = 30 // percent
)

// tuneGC sets that up, unless the environment says otherwise.
func tuneGC() {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(freeMemory)
	runtime.SetFinalizer(&collected{}, (*collected).tune)
}

// collected is garbage that learns of each collection. It is not of zero size,
// so that it is an object of its own.
type collected struct{ _ [16]byte }

// tune ends the limit before collecting would be all that is done.
func (c *collected) tune() {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	if live[0].Value.Kind() == metrics.KindUint64 && live[0].Value.Uint64() < largeHeap {
		runtime.SetFinalizer(c, (*collected).tune)
		return
	}
	debug.SetGCPercent(largeGC)
	debug.SetMemoryLimit(math.MaxInt64)
}
