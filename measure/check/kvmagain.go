package check

import (
	"time"
)

// kvmPatience is how long a scan waits, after the pause, for the vendor's module of KVM
// that was being loaded or unloaded at it.
const kvmPatience = 5 * time.Second

// takeKVMAgain has KVM's tables read at a pause of their own if the vendor's module was
// not live at the scan's, once it is. What does not come to that is not measured, as it
// was.
func (c *collector) takeKVMAgain(m Machine) error {
	if c.still || len(c.kvm) == 0 {
		return nil
	}
	if state, err := c.kvmState(); err != nil || state == 0 {
		return nil // it was unloaded: nothing to wait for
	}
	vendor, err := c.kvmVendor()
	if err != nil {
		return nil
	}
	then, err := c.module(vendor)
	if err != nil {
		return nil
	}
	live := false
	c.await(kvmPatience, func() bool {
		now, err := c.profile.Modules()
		if err != nil {
			return false
		}
		gone := true
		for _, m := range now {
			if m.At == then.At && m.Name == then.Name {
				gone, live = false, m.Live
			}
		}
		return gone || live
	})
	if !live {
		return nil
	}
	return c.retakeKVM(m)
}

// retakeKVM plans kvm.ops anew, whose operations are known only once they are set, and
// reads what it wants. What other checks wanted is as it was at the scan's pause.
func (c *collector) retakeKVM(m Machine) error {
	others, planned := c.snapshots, c.kvm
	for _, vendor := range c.modules {
		if ofProcessor(vendor.Name) {
			delete(c.symbols, vendor.At) // until it was live it had others
		}
	}
	c.snapshots, c.kvm, c.space = nil, nil, c.root.Cached()
	if err := guard(func() error { return planKVM(c) }); err != nil || len(c.kvm) == 0 {
		c.snapshots, c.kvm = others, planned
		return nil // not measured, with the state that it had
	}
	pause, err := c.atPause(m)
	if err != nil {
		return err
	}
	c.stopped(pause)
	c.snapshots = append(c.snapshots, others...) // the first that has an address is asked
	return nil
}
