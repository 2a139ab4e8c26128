package check

import (
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// livepatchFact is a function that a live patch has put in another's place
// (struct klp_func, include/linux/livepatch.h).
type livepatchFact struct {
	Old address `json:"old"` // the function that is replaced
	New pointer `json:"new"` // what is called instead
}

// maxLivepatches bounds the functions that are replaced, and the patches of each.
const maxLivepatches = 4096

// livepatches reads which functions are replaced: klp_ops is a list with one
// struct klp_ops for each such function, in which the patches of it are stacked
// (kernel/livepatch/patch.c). ftrace's handler calls what the top of the stack
// has, or the one below while tasks still go over to it: each has to be code.
func (c *collector) livepatches(d *patchingData) error {
	head, ok := c.profile.Symbol("klp_ops")
	if !ok {
		return nil // built without
	}
	var offsets [5]uint64
	for i, of := range [][2]string{{"klp_ops", "node"}, {"klp_ops", "func_stack"},
		{"klp_func", "stack_node"}, {"klp_func", "old_func"}, {"klp_func", "new_func"}} {
		var err error
		if offsets[i], err = c.profile.Types.Offset(of[0], of[1]); err != nil {
			return err
		}
	}
	replaced, err := kernel.List(c.space, head, maxLivepatches)
	if err != nil {
		return err
	}
	for _, ops := range replaced {
		stack, err := kernel.List(c.space, ops-mem.Virt(offsets[0])+mem.Virt(offsets[1]), maxLivepatches-len(d.Livepatches))
		if err != nil {
			return err
		}
		for _, at := range stack {
			at -= mem.Virt(offsets[2])
			from, err1 := c.space.U64(at + mem.Virt(offsets[3]))
			to, err2 := c.space.U64(at + mem.Virt(offsets[4]))
			if err := errors.Join(err1, err2); err != nil {
				return err
			}
			d.Livepatches = append(d.Livepatches, livepatchFact{address(from),
				c.pointer("live patch of "+c.symbol(mem.Virt(from)), at+mem.Virt(offsets[4]), mem.Virt(to))})
		}
	}
	return nil
}

// livepatched judges where live patches lead: to the start of a function of
// approved text, which is told.
func (j *judging) livepatched(d *patchingData, out *measure.Check) error {
	if d.LivepatchesUnread != "" {
		return fmt.Errorf("live patches could not be read: %s", d.LivepatchesUnread)
	}
	if len(d.Livepatches) > 0 && j.code.err != nil {
		return j.code.err
	}
	for _, f := range d.Livepatches {
		if problem := j.lands(f.New); problem != "" {
			out.Findings = append(out.Findings, j.finding(f.New, "the start of a function", "a function is live-patched, and what is called instead "+problem))
			continue
		}
		note := measure.Finding{Address: f.Old.String(), Observed: fmt.Sprintf("%v (%s)", f.New.Value, j.name(f.New)),
			Explanation: "live-patched: this is called instead"}
		if j.text != nil && j.text.env != nil {
			if name, offset, ok := j.text.env.Lookup(uint64(f.Old)); ok {
				note.Symbol = withOffset(name, offset)
			}
		}
		out.Notes = append(out.Notes, note)
	}
	return nil
}
