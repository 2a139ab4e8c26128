package check

import (
	"encoding/json"

	"github.com/plumbline-sec/plumbline/measure"
)

// check is one entry of the table.
type check struct {
	name string
	kind string // of target it is for, [measure.Xen]; empty for Linux

	// plan, if any, runs first, while the target runs: it looks up what it
	// needs and says with c.want which memory must be read at the pause. An
	// error becomes the reason why nothing was measured.
	plan func(c *collector) error

	// collect states facts, after the pause, while the target runs again. What
	// was wanted is read with c.wanted. Data is marshalled into the
	// observation; an error becomes the reason why nothing was measured.
	collect func(c *collector) (data any, coverage measure.Coverage, err error)

	// bulk, if not 0, says that collect only reads and wants nothing from the
	// pause: it runs beside the planning, the pause and the collecting halves of
	// the others, on a collector of its own. It is how long that takes, in
	// milliseconds or so: the longest is begun first.
	bulk int

	// judge reads the data of collect and fills in out's findings, notes and
	// reason. It sets no outcome: findings make it a failure. An error means
	// that it could not be judged and becomes the reason of not measured.
	judge func(j *judging, data json.RawMessage, out *measure.Check) error

	// memo says that judge goes by no files but the image and those of listed
	// modules: where those and the facts are what they were, so is the verdict.
	memo bool

	// beside says that judge takes long and only reads what the judging has: the
	// facts of code and what is expected of text, but no pages. It runs on its
	// own goroutine.
	beside bool
}

// table returns all checks in the order in which reports show them.
func table() []check { return append(linuxChecks(), xenChecks()...) }

func linuxChecks() []check {
	return []check{
		modulesCheck(),
		textCheck(),
		rodataCheck(),
		moduleTextCheck(),
		moduleRodataCheck(),
		modulePointersCheck(),
		dynamicCheck(),
		initCheck(),
		tablesCheck(),
		vdsoCheck(),
		registersCheck(),
		msrsCheck(),
		idtCheck(),
		gdtCheck(),
		pageTablesCheck(),
		syscallsCheck(),
		pointersCheck(),
		objectsCheck(),
		processesCheck(),
		socketsCheck(),
		kvmCheck(),
	}
}

// Names lists all checks, in order: a scan runs those for the kind of its target.
func Names() []string {
	var names []string
	for _, c := range table() {
		names = append(names, c.name)
	}
	return names
}
