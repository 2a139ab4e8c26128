package check

import (
	"slices"
	"time"

	"github.com/plumbline-sec/plumbline/measure/kernel"
)

// A module that is being loaded cannot be compared: where its sections are is in
// its account only at the end of that. Nor can one that was loaded while the scan
// ran. Both take moments, so that a scan waits a little for the first before it
// begins, and is done once more after the second. Neither leaves anything out: what
// does not come to rest is not measured.
const (
	// modulePatience is how long a scan waits for modules to be live, or gone.
	modulePatience = 2 * time.Second
	// scanAgainWithin is how long a scan may have taken that is done again.
	scanAgainWithin = 10 * time.Second
)

// still is a [Machine] that may be one that never runs, such as a dump: waiting
// changes nothing there.
type still interface {
	Still() bool
}

// moduleAttempts is how often the list of modules is read: it may change while
// it is being read.
const moduleAttempts = 3

// listModules lists the modules, if it can when all are live.
func (c *collector) listModules() {
	c.await(modulePatience, func() bool {
		for range moduleAttempts {
			if c.modules, c.modulesErr = c.profile.Modules(); c.modulesErr == nil {
				break
			}
		}
		return c.modulesErr != nil || !slices.ContainsFunc(c.modules, unsettled)
	})
}

// await looks again and again until what it looks for is so, but no longer
// than it has patience, and returns how much of it is left.
func (c *collector) await(patience time.Duration, so func() bool) time.Duration {
	for until := time.Now().Add(patience); ; {
		if so() || c.still || time.Now().After(until) {
			return time.Until(until)
		}
		select {
		case <-c.ctx.Done():
			return 0
		case <-time.After(lastingPause):
		}
	}
}

// unsettled says that a module is being loaded or unloaded.
func unsettled(m kernel.LoadedModule) bool { return !m.Live }

// outrun reports whether there is a module now that the scan could not compare.
func (c *collector) outrun() bool {
	if c.still || c.profile == nil || c.modulesErr != nil {
		return false
	}
	list, err := c.profile.Modules()
	return err == nil && slices.ContainsFunc(list, func(now kernel.LoadedModule) bool {
		return !slices.ContainsFunc(c.modules, func(then kernel.LoadedModule) bool {
			return then.At == now.At && then.Name == now.Name && then.Live
		})
	})
}
