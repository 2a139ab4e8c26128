package lab

import (
	"context"
	"errors"
)

// credentialTampers give a process rights by what the kernel keeps of it.
var credentialTampers = []Tamper{
	{
		Name: "credentials-of-init", Check: "linux.processes",
		Doc:   "give a process the credentials of init",
		apply: stealCredentials,
	},
	{
		Name: "credentials-of-kernel", Check: "linux.processes",
		Doc:   "give a process the credentials that the kernel starts with",
		apply: takeInitialCredentials,
	},
}

func stealCredentials(ctx context.Context, c *change) error {
	h, err := c.hold(ctx, "/etc/passwd")
	if err != nil {
		return err
	}
	first, err := c.task(ctx, 1)
	if err != nil {
		return err
	}
	at, err := c.follow(ctx, first, "task_struct.real_cred")
	if err != nil {
		return err
	}
	cred, err := c.mem.readWord(at)
	if err != nil {
		return err
	}
	return c.giveCredentials(ctx, h.task, cred)
}

func takeInitialCredentials(ctx context.Context, c *change) error {
	h, err := c.hold(ctx, "/etc/passwd")
	if err != nil {
		return err
	}
	at, err := c.symbols(ctx, "init_cred")
	if err != nil {
		return err
	}
	return c.giveCredentials(ctx, h.task, at[0])
}

// giveCredentials changes the credentials of a process that sleeps. What it was given
// is not counted, so it may not end before it has its own back.
func (c *change) giveCredentials(ctx context.Context, task, cred uint64) error {
	others, err1 := c.follow(ctx, task, "task_struct.real_cred")
	own, err2 := c.follow(ctx, task, "task_struct.cred")
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if err := c.write(ctx, others, word(cred)); err != nil {
		return err
	}
	return c.write(ctx, own, word(cred))
}
