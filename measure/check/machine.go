package check

import (
	"context"
	"time"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Machine is a target that can be stopped and read.
type Machine interface {
	// Memory reads the target's physical memory.
	Memory() mem.Reader

	// Registers reads all virtual CPUs, whether the target is paused or not. A
	// source without registers, such as a raw memory file, returns none.
	Registers(ctx context.Context) ([]mem.Registers, error)

	// Pause stops the target and returns what lets it run again. The caller
	// calls resume exactly once, whatever happens in between; resume works
	// after ctx has ended. A target that was already stopped stays stopped.
	Pause(ctx context.Context) (resume func() error, err error)
}

// pauseClock is a [Machine] that knows how long its last pause was; of others
// the scan takes the time itself. A method that stops the target by itself counts
// as a pause too.
type pauseClock interface {
	PausedFor() time.Duration
}

// stopsByItself is a [Machine] of which some methods stop the target by themselves. It
// calls f before each such stop, and what f returns after it.
type stopsByItself interface {
	AtStops(f func() (after func()))
}
