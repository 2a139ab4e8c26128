package check

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/paging"
)

// TestBulkRestsAtThePause: while the target stands still no bulk is at work, and
// afterwards it goes on.
func TestBulkRestsAtThePause(t *testing.T) {
	var worked atomic.Int64
	done := make(chan struct{})
	checks := []check{{name: textName, bulk: 1, collect: func(c *collector) (any, measure.Coverage, error) {
		for {
			select {
			case <-done:
				return nil, measure.Coverage{}, nil
			default:
				worked.Add(1)
				c.breathe()
			}
		}
	}}}
	c := &collector{ctx: t.Context(), root: &paging.Space{}, rests: new(sync.RWMutex)}
	bulk := c.startBulk(checks, &measure.Observations{Items: make([]measure.Observation, 1)})
	goesOn := func() {
		t.Helper()
		before := worked.Load()
		for end := time.Now().Add(time.Minute); worked.Load() == before; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("bulk does not work")
			}
		}
	}
	goesOn()
	held := make(chan func())
	go func() { held <- c.rest() }()
	var after func()
	select {
	case after = <-held:
	case <-time.After(time.Minute):
		t.Fatal("bulk does not let the target be stopped")
	}
	before := worked.Load()
	time.Sleep(20 * time.Millisecond)
	if worked.Load() != before {
		t.Error("bulk was at work while the target stood still")
	}
	after()
	goesOn()
	close(done)
	bulk.wait()
	c.breathe() // of the collector that pauses: nothing
}
