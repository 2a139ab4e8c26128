package kernel

import (
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// TasksInMemory finds live tasks among all that memory holds of their kind: the
// slabs of task_struct_cachep. A task counts if it is referred to (usage), has
// not ended, and has a number; idle tasks have none. Freed ones are left out by
// the same. The error is [ErrSlab] if most of the tasks that are listed do not lie
// where tasks should: this view sees nothing then.
func (p *Profile) TasksInMemory(listed []Task) ([]Task, error) {
	t, err := p.tasks()
	if err != nil {
		return nil, fmt.Errorf("tasks in memory: %w", err)
	}
	usage, err1 := p.Types.Offset("task_struct", "usage")
	exit, err2 := p.Types.Offset("task_struct", "exit_state")
	stack, err3 := p.Types.Offset("task_struct", "stack")
	cache, err4 := p.SlabCache("task_struct_cachep")
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, fmt.Errorf("tasks in memory: %w", err)
	}
	places, err := p.SlabObjects(cache)
	if err != nil {
		return nil, fmt.Errorf("tasks in memory: %w", err)
	}
	if here := countAt(listed, places[0]); 2*here < len(listed) {
		return nil, fmt.Errorf("tasks in memory: %w: %d of %d tasks on the list lie there", ErrSlab, here, len(listed))
	}
	var out []Task
	for _, at := range places[0] {
		references, err1 := p.Space.U32(at + mem.Virt(usage))
		state, err2 := p.Space.U32(at + mem.Virt(exit))
		kernelStack, err3 := p.Space.U64(at + mem.Virt(stack))
		if errors.Join(err1, err2, err3) != nil || int32(references) <= 0 || state != 0 || kernelStack>>47 == 0 {
			continue
		}
		// Its stack is there as long as it can run.
		if _, err := p.Space.U64(mem.Virt(kernelStack)); err != nil {
			continue
		}
		task, err := t.read(at)
		if err == nil && task.PID > 0 && task.TGID > 0 {
			out = append(out, task)
		}
	}
	return out, nil
}

// countAt counts the tasks that lie at one of some places.
func countAt(tasks []Task, places []mem.Virt) (n int) {
	at := make(map[mem.Virt]bool, len(places))
	for _, place := range places {
		at[place] = true
	}
	for _, t := range tasks {
		if at[t.At] {
			n++
		}
	}
	return n
}
