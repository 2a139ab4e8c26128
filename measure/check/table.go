package check

import (
	"encoding/json"

	"github.com/plumbline-sec/plumbline/measure"
)

// check is one entry of the table.
type check struct {
	name string
	when phase

	// collect states facts. Data is marshalled into the observation; an error
	// becomes the reason why nothing was measured. It may rely on c.profile.
	collect func(c *collector) (data any, coverage measure.Coverage, err error)

	// judge reads the data of collect and fills in out's findings, notes and
	// reason. It sets no outcome: findings make it a failure. An error means
	// that it could not be judged and becomes the reason of not measured.
	judge func(j *judging, data json.RawMessage, out *measure.Check) error
}

// phase says when a check collects.
type phase int

const (
	// paused is for what must be consistent: registers, small tables. The
	// target stands still meanwhile, so it has to take well under 1 ms.
	paused phase = iota
	// running is for what does not change while the target runs, or changes
	// in ways that the judging half understands, such as text.
	running
)

// table returns all checks in the order in which reports show them.
func table() []check {
	return []check{}
}

// Names lists the checks that a scan runs, in order.
func Names() []string {
	var names []string
	for _, c := range table() {
		names = append(names, c.name)
	}
	return names
}
