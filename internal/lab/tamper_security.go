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
		Name: "security-module-off", Check: "linux.pointers",
		Doc:   "have the capabilities' hooks look as if one of them had never been registered",
		apply: unregisterCapability,
	},
}

// silenceLockdown takes the first hook of lockdown off its list (struct
// security_hook_list and hlist_node), or off its static key (since 6.12).
func silenceLockdown(ctx context.Context, c *change) error {
	at, err := c.symbols(ctx, "lockdown_hooks")
	if err != nil {
		return err
	}
	mem, err := c.memory(ctx)
	if err != nil {
		return err
	}
	if list, err := c.offset(ctx, "security_hook_list", "list"); err == nil {
		next, err1 := mem.readWord(at[0] + list)
		before, err2 := mem.readWord(at[0] + list + 8)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		return c.write(ctx, before, word(next))
	}
	slot, err := c.follow(ctx, at[0], "security_hook_list.scalls")
	if err != nil {
		return err
	}
	if slot, err = mem.readWord(slot); err != nil { // the first call of that hook
		return err
	}
	active, err := c.follow(ctx, slot, "lsm_static_call.active", "static_key.enabled")
	if err != nil {
		return err
	}
	return c.write(ctx, active, binary.LittleEndian.AppendUint32(nil, 0))
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
