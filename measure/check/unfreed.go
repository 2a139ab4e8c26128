package check

import (
	"maps"
	"slices"
	"time"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// A module that was taken off the list to be freed is MODULE_STATE_UNFORMED, or what
// it was when loading it failed, and its memory stays for a grace period of RCU and for
// as long as it takes to unmap it, part by part, its struct module last, with other
// CPUs to be told each time (kernel/module/main.c, free_module, 6.12). The one who does
// it may have been woken long ago and get no processor. So one that is not live is
// waited for, and if it is still there it is no finding where a task that frees a
// module has it in hand, but not measured. Both are the target's to say: a module that
// is not live and that nobody frees is a finding, and so is a live one, at once.

// unfreedPatience is how long a scan waits for modules to be freed.
const unfreedPatience = 20 * time.Second

// awaitFreed waits until none of some modules off the list is there that is not live.
func (c *collector) awaitFreed(modules map[address]hiddenFact) {
	c.await(unfreedPatience, func() bool {
		for at := range modules {
			if c.unformed(at) {
				return false
			}
		}
		return true
	})
}

// unformed reports whether there is a struct module with another state than live.
func (c *collector) unformed(at address) bool {
	offset, err := c.profile.Types.Offset("module", "state")
	if err != nil {
		return false
	}
	state, err := c.profile.Space.U32(mem.Virt(at) + mem.Virt(offset)) // not as it was mapped at the pause
	return err == nil && state != 0
}

// dropUnfreed takes those out of some modules off the list that a task is freeing, and
// says that there were.
func (c *collector) dropUnfreed(modules map[address]hiddenFact) error {
	var ranges []mappedRange
	for at := range modules {
		if c.unformed(at) {
			ranges = append(ranges, mappedRange{Start: at})
		}
	}
	inHand, err := c.freeing(ranges)
	if len(inHand) > 0 {
		err = errUnfreed
	}
	maps.DeleteFunc(modules, func(at address, _ hiddenFact) bool {
		return slices.ContainsFunc(inHand, func(o owner) bool { return o.Start == at })
	})
	return err
}
