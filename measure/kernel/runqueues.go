package kernel

import (
	"errors"
	"fmt"
	"slices"

	"github.com/plumbline-sec/plumbline/internal/bin"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// TaskQueue is what one class of the scheduler has queued on all CPUs.
type TaskQueue struct {
	Class string // such as "real-time"
	Tasks []Task
	// Err says why Tasks are not all: [ErrNoMember] of a kernel whose types are
	// other than those known here, else a queue that changed while it was read, or
	// is no queue.
	Err error
}

// runQueues walks the per-CPU runqueues (kernel/sched/sched.h, struct rq).
type runQueues struct {
	*tasks
	at     []mem.Virt // of each CPU that is there
	budget int        // entries that may still be visited, in one class
}

// QueuedTasks lists what waits to run, or runs, by what each class of the
// scheduler has queued.
func (p *Profile) QueuedTasks() ([]TaskQueue, error) {
	t, err := p.tasks()
	if err != nil {
		return nil, fmt.Errorf("run queues: %w", err)
	}
	queues, ok := p.Symbol("runqueues")
	current, err1 := p.Types.Offset("rq", "curr")
	bases, err2 := p.PerCPU()
	if err := errors.Join(err1, err2); !ok || err != nil {
		return nil, fmt.Errorf("run queues: %w: no runqueues (%w)", ErrNoSymbols, err)
	}
	q := &runQueues{tasks: t}
	slices.Sort(bases)
	for _, base := range slices.Compact(bases) { // those that cannot be share one
		at := base + queues
		if _, err := p.Space.U64(at + mem.Virt(current)); err == nil { // else a CPU that is not there
			q.at = append(q.at, at)
		}
	}
	var out []TaskQueue
	for _, class := range []struct {
		name string
		walk func() ([]Task, error)
		lack bool // this kernel has no such class
	}{
		{name: "fair", walk: q.fair},
		{name: "real-time", walk: q.realTime},
		{name: "deadline", walk: q.deadline},
		{name: "stop", walk: q.stop},
		{name: "extensible", walk: q.extensible, lack: !p.Types.Has("rq", "scx")},
	} {
		if class.lack {
			continue
		}
		q.budget = maxTasks
		tasks, err := class.walk()
		if err != nil {
			err = fmt.Errorf("run queue of the %s class: %w", class.name, err)
		}
		out = append(out, TaskQueue{class.name, tasks, err})
	}
	return out, nil
}

// fair are normal tasks, by the list that the scheduler balances by.
func (q *runQueues) fair() ([]Task, error) {
	return q.lists([]string{"cfs_tasks"}, []string{"se", "group_node"})
}

// extensible are tasks of a scheduler that is a BPF program (kernel/sched/ext.c,
// since 6.12): its own queues are its own matter, and the kernel's list for its
// watchdog has all that may run and does not.
func (q *runQueues) extensible() ([]Task, error) {
	return q.lists([]string{"scx", "runnable_list"}, []string{"scx", "runnable_node"})
}

// lists reads one list of each CPU.
func (q *runQueues) lists(head, link []string) ([]Task, error) {
	list, err1 := q.Types.Offset("rq", head...)
	node, err2 := q.Types.Offset("task_struct", link...)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	var out []Task
	for _, at := range q.at {
		nodes, err := q.list(at + mem.Virt(list))
		if err == nil {
			out, err = q.add(out, nodes, node)
		}
		if err != nil {
			return out, err
		}
	}
	return out, nil
}

// list reads a list that a CPU which was never there has not made.
func (q *runQueues) list(head mem.Virt) ([]mem.Virt, error) {
	if first, err := q.Space.U64(head); err != nil || first == 0 {
		return nil, err
	}
	nodes, err := List(q.Space, head, q.budget)
	q.budget -= len(nodes)
	return nodes, err
}

// add appends the tasks whose links these are.
func (q *runQueues) add(to []Task, links []mem.Virt, link uint64) ([]Task, error) {
	for _, at := range links {
		task, err := q.read(at - mem.Virt(link))
		if err != nil {
			return to, err
		}
		to = append(to, task)
	}
	return to, nil
}

// stop are the tasks that stop a CPU for others, which wait in no queue: each CPU
// has one.
func (q *runQueues) stop() ([]Task, error) {
	member, err := q.Types.Offset("rq", "stop")
	if err != nil {
		return nil, err
	}
	var out []Task
	for _, at := range q.at {
		task, err := q.Space.U64(at + mem.Virt(member))
		if err == nil && task != 0 {
			out, err = q.add(out, []mem.Virt{mem.Virt(task)}, 0)
		}
		if err != nil {
			return out, err
		}
	}
	return out, nil
}

// deadline are tasks by their deadlines (struct dl_rq). An entity within the run
// queue itself is no task: since 6.8 it stands for what another class has queued
// (fair_server).
func (q *runQueues) deadline() ([]Task, error) {
	tree, err1 := q.Types.rbTree()
	root, err2 := q.Types.Offset("rq", "dl", "root", "rb_root", "rb_node")
	link, err3 := q.Types.Offset("task_struct", "dl", "rb_node")
	size, err4 := q.Types.Size("rq")
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, err
	}
	var out []Task
	for _, at := range q.at {
		nodes, err := tree.nodes(q.Space, at+mem.Virt(root), q.budget)
		q.budget -= len(nodes)
		for _, node := range nodes {
			if err == nil && uint64(node-at) >= size {
				out, err = q.add(out, []mem.Virt{node}, link)
			}
		}
		if err != nil {
			return out, err
		}
	}
	return out, nil
}

// realTimeQueue are offsets for reading struct rt_rq: its queues, one for each
// priority, of struct sched_rt_entity.
type realTimeQueue struct {
	queues Member
	link   uint64 // in struct sched_rt_entity
	group  uint64 // the struct rt_rq that an entity stands for
	groups bool   // CONFIG_RT_GROUP_SCHED, which not every kernel has
	task   uint64 // the entity in struct task_struct
}

// realTime are tasks by their priorities. What stands for a group of tasks is
// followed to the group's own queues.
func (q *runQueues) realTime() ([]Task, error) {
	var r realTimeQueue
	var err1, err2, err3 error
	r.queues, err1 = q.Types.Member("rt_rq", "active", "queue")
	r.link, err2 = q.Types.Offset("sched_rt_entity", "run_list")
	r.task, err3 = q.Types.Offset("task_struct", "rt")
	top, err4 := q.Types.Offset("rq", "rt")
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, err
	}
	if r.queues.Size > mem.PageSize { // MAX_RT_PRIO, 100, heads
		return nil, fmt.Errorf("%w: queues of %d bytes", ErrListTooLong, r.queues.Size)
	}
	group, err := q.Types.Offset("sched_rt_entity", "my_q")
	r.group, r.groups = group, err == nil

	var todo []mem.Virt
	for _, at := range q.at {
		todo = append(todo, at+mem.Virt(top))
	}
	var out []Task
	for seen := make(map[mem.Virt]bool); len(todo) > 0; {
		at := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[at] { // groups that contain each other
			return out, fmt.Errorf("group at %v: %w", at, ErrListTooLong)
		}
		seen[at] = true
		tasks, inner, err := q.priorities(&r, at)
		out, todo = append(out, tasks...), append(todo, inner...)
		if err != nil {
			return out, err
		}
	}
	return out, nil
}

// priorities reads the queues of one struct rt_rq: tasks, and groups.
func (q *runQueues) priorities(r *realTimeQueue, at mem.Virt) (tasks []Task, groups []mem.Virt, err error) {
	first := at + mem.Virt(r.queues.Offset)
	raw := make([]byte, r.queues.Size)
	if err := q.Space.Read(raw, first); err != nil {
		return nil, nil, err
	}
	c := bin.Little(raw)
	for head := first; c.Len() >= 16; head += 16 {
		next := c.U64()
		c.U64()
		if mem.Virt(next) == head { // almost all are empty
			continue
		}
		nodes, err := q.list(head)
		if err != nil {
			return tasks, groups, err
		}
		for _, node := range nodes {
			entity := node - mem.Virt(r.link)
			var inner uint64
			if r.groups {
				inner, err = q.Space.U64(entity + mem.Virt(r.group))
			}
			switch {
			case err == nil && inner != 0:
				groups = append(groups, mem.Virt(inner))
			case err == nil:
				tasks, err = q.add(tasks, []mem.Virt{entity}, r.task)
			}
			if err != nil {
				return tasks, groups, err
			}
		}
	}
	return tasks, groups, nil
}
