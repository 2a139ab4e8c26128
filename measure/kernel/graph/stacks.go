package graph

// stackShift is log2 of a kernel stack's size and alignment (arch/x86/include/
// asm/page_64_types.h, THREAD_SIZE_ORDER). What a function keeps on its stack is
// not cleared before: members that it did not set hold what others left there.
const stackShift = 14

// maxStacks bounds the tasks that are looked at for their stacks first.
const maxStacks = 1 << 20

// findStacks notes the stacks of all tasks, threads included, before anything is
// followed to one (init_task, task_struct.tasks and thread_node; include/linux/
// sched/signal.h). What cannot be read is left: a task's stack is noted again when
// the task is visited.
func (w *walker) findStacks() {
	var o struct{ tasks, thread, signal, threads uint64 }
	for _, m := range []struct {
		owner, name string
		into        *uint64
	}{
		{"task_struct", "tasks", &o.tasks}, {"task_struct", "thread_node", &o.thread},
		{"task_struct", "signal", &o.signal}, {"signal_struct", "thread_head", &o.threads},
	} {
		var err error
		if *m.into, err = w.schema.offset(m.owner, m.name); err != nil {
			return
		}
	}
	first := w.address("init_task")
	if first == 0 || w.task == nil || w.stack == 0 {
		return
	}
	count := 0
	each := func(head uint64, visit func(link uint64)) {
		at, err := w.u64(head)
		for ; err == nil && at != head && high(at) && count < maxStacks; count++ {
			visit(at)
			at, err = w.u64(at)
		}
	}
	w.stackOf(first)
	each(first+o.tasks, func(link uint64) {
		task := link - o.tasks
		w.stackOf(task)
		if signal, err := w.u64(task + o.signal); err == nil && high(signal) {
			each(signal+o.threads, func(link uint64) { w.stackOf(link - o.thread) })
		}
	})
}

func (w *walker) stackOf(task uint64) {
	if stack, err := w.u64(task + w.stack); err == nil {
		w.stacks[stack>>stackShift] = true
	}
}
