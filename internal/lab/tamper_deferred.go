package lab

import (
	"context"
	"errors"
)

// deferredTampers put a forged call on what the kernel keeps to be called later: a
// rootkit that has itself called again each time stays there. Lists that a CPU
// drains within moments are changed, looked at and put back while the machine stands
// still.
var deferredTampers = []Tamper{
	{
		Name: "task-work", Check: "linux.objects",
		Doc:   "give a process that sleeps forged work to do before it returns to user mode",
		apply: plantTaskWork,
	},
	{
		Name: "wait-queue-entry", Check: "linux.objects",
		Doc:   "link a forged entry into the queue of those that wait for a process's children",
		apply: plantWaiter,
	},
	{
		Name: "rcu-callback", Check: "linux.objects",
		Doc:   "link a forged callback into what CPU 0 calls after a grace period of RCU",
		apply: plantDeferred("rcu_data", "rcu_data", "cblist.head", "callback_head"),
	},
	{
		Name: "irq-work", Check: "linux.objects",
		Doc:   "link forged work into what CPU 0 does in its next tick",
		apply: plantDeferred("lazy_list", "", "", "irq_work"),
	},
	{
		Name: "cpu-call", Check: "linux.objects",
		Doc:   "link a forged call into what other CPUs have CPU 0 call",
		apply: plantDeferred("call_single_queue", "", "", "__call_single_data"),
	},
	{
		Name: "tasklet", Check: "linux.objects",
		Doc:   "link a forged tasklet into those of CPU 0",
		apply: plantDeferred("tasklet_vec", "tasklet_head", "head", "tasklet_struct"),
	},
}

// plantTaskWork gives the holder a task_work (kernel/task_work.c): it never gets
// there, as it sleeps.
func plantTaskWork(ctx context.Context, c *change) error {
	h, err := c.hold(ctx, "/etc/passwd")
	if err != nil {
		return err
	}
	works, err := c.offset(ctx, "task_struct", "task_works")
	if err != nil {
		return err
	}
	at, err := c.symbols(ctx, pointerTarget)
	if err != nil {
		return err
	}
	first, err := c.mem.readWord(h.task + works)
	if err != nil {
		return err
	}
	return c.plant(ctx, h.task+works, h.room, first, at[0], callback, "func")
}

// callback is what RCU calls, or a task (include/linux/types.h).
const callback = "callback_head"

// plantWaiter makes an entry the only one of the queue that the holder's parent
// would be in if it were the holder: it has no children (kernel/exit.c, do_wait).
func plantWaiter(ctx context.Context, c *change) error {
	h, err := c.hold(ctx, "/etc/passwd")
	if err != nil {
		return err
	}
	link, err1 := c.offset(ctx, "wait_queue_entry", "entry")
	call, err5 := c.offset(ctx, "wait_queue_entry", "func")
	queue, err2 := c.follow(ctx, h.task, "task_struct.signal", "signal_struct.wait_chldexit")
	head, err3 := c.offset(ctx, "wait_queue_head", "head")
	at, err4 := c.symbols(ctx, pointerTarget)
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		return err
	}
	head += queue
	first, err := c.mem.readWord(head)
	if err != nil {
		return err
	}
	if first != head {
		return errors.New("somebody waits for the process's children")
	}
	entry := make([]byte, 64) // a struct wait_queue_entry has 40 bytes
	copy(entry[call:], word(at[0]))
	copy(entry[link:], append(word(head), word(head)...))
	if err := c.write(ctx, h.room, entry); err != nil {
		return err
	}
	return c.write(ctx, head, append(word(h.room+link), word(h.room+link)...))
}

// plantDeferred links an object that starts with its link before the first of a list
// of CPU 0, and leaves the machine stopped. The head is the variable, or a member of
// its structure.
func plantDeferred(variable, owner, head, structure string) func(context.Context, *change) error {
	return func(ctx context.Context, c *change) error {
		h, err := c.hold(ctx, "/etc/passwd")
		if err != nil {
			return err
		}
		at, err := c.symbols(ctx, variable, "__per_cpu_offset", pointerTarget)
		if err != nil {
			return err
		}
		base, err := c.mem.readWord(at[1])
		if err != nil {
			return err
		}
		slot := at[0] + base
		if owner != "" {
			into, err := c.offset(ctx, owner, head)
			if err != nil {
				return err
			}
			slot += into
		}
		if err := c.stop(ctx); err != nil {
			return err
		}
		first, err := c.mem.readWord(slot)
		if err != nil {
			return err
		}
		return c.plant(ctx, slot, h.room, first, at[2], structure, "func")
	}
}

// stop stops the machine until it is put back.
func (c *change) stop(ctx context.Context) error {
	if err := c.record(undoStep{Resume: true}); err != nil {
		return err
	}
	return c.machine.monitor(ctx, "stop")
}
