package kernel

import (
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/internal/bin"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Task is a process or thread (struct task_struct).
type Task struct {
	At   mem.Virt
	PID  int32 // of the thread
	TGID int32 // of its process
	Comm string
}

// Limits on what the target may claim: the kernel's own for process numbers.
const (
	maxTasks = 4 << 20
	maxDepth = 12 // of an xarray: 64 bits in steps of 6
)

// tasks holds offsets for reading tasks.
type tasks struct {
	*Profile
	pid, tgid, comm, list, threadNode, signal, threadHead, pidLinks uint64
}

func (p *Profile) tasks() (*tasks, error) {
	t := &tasks{Profile: p}
	for _, f := range []struct {
		into *uint64
		of   string
		name string
	}{
		{&t.pid, "task_struct", "pid"}, {&t.tgid, "task_struct", "tgid"}, {&t.comm, "task_struct", "comm"},
		{&t.list, "task_struct", "tasks"}, {&t.threadNode, "task_struct", "thread_node"},
		{&t.signal, "task_struct", "signal"}, {&t.threadHead, "signal_struct", "thread_head"},
		{&t.pidLinks, "task_struct", "pid_links"},
	} {
		var err error
		if *f.into, err = p.Types.Offset(f.of, f.name); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func (t *tasks) read(at mem.Virt) (Task, error) {
	task := Task{At: at}
	pid, err1 := t.Space.U32(at + mem.Virt(t.pid))
	tgid, err2 := t.Space.U32(at + mem.Virt(t.tgid))
	comm, err3 := t.Space.CString(at+mem.Virt(t.comm), 16)
	task.PID, task.TGID, task.Comm = int32(pid), int32(tgid), comm
	return task, errors.Join(err1, err2, err3)
}

// Tasks lists all threads of all processes by the kernel's list of processes
// (init_task.tasks) and their lists of threads.
func (p *Profile) Tasks() ([]Task, error) {
	t, err := p.tasks()
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	head, ok := p.Symbol("init_task")
	if !ok {
		return nil, fmt.Errorf("list processes: %w: no init_task", ErrNoSymbols)
	}
	leaders, err := List(p.Space, head+mem.Virt(t.list), maxTasks)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var out []Task
	for _, at := range leaders {
		threads, err := t.threads(at - mem.Virt(t.list))
		out = append(out, threads...)
		if err != nil {
			return out, fmt.Errorf("list threads: %w", err)
		}
		if len(out) > maxTasks {
			return out, fmt.Errorf("list threads: %w", ErrListTooLong)
		}
	}
	return out, nil
}

func (t *tasks) threads(leader mem.Virt) ([]Task, error) {
	signal, err := t.Space.U64(leader + mem.Virt(t.signal))
	if err != nil {
		return nil, err
	}
	nodes, err := List(t.Space, mem.Virt(signal+t.threadHead), maxTasks)
	if err != nil {
		return nil, err
	}
	var out []Task
	for _, at := range nodes {
		task, err := t.read(at - mem.Virt(t.threadNode))
		if err != nil {
			return out, err
		}
		out = append(out, task)
	}
	return out, nil
}

// TasksByPID lists all threads by the table of process numbers
// (init_pid_ns.idr), which is what finds a process by its number.
func (p *Profile) TasksByPID() ([]Task, error) {
	t, err := p.tasks()
	if err != nil {
		return nil, fmt.Errorf("process numbers: %w", err)
	}
	namespace, ok := p.Symbol("init_pid_ns")
	if !ok {
		return nil, fmt.Errorf("process numbers: %w: no init_pid_ns", ErrNoSymbols)
	}
	head, err1 := p.Types.Offset("pid_namespace", "idr", "idr_rt", "xa_head")
	first, err2 := p.Types.Offset("pid", "tasks")
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("process numbers: %w", err)
	}
	var out []Task
	err = p.xarray(namespace+mem.Virt(head), func(entry mem.Virt) error {
		link, err := p.Space.U64(entry + mem.Virt(first))
		if err != nil || link == 0 { // a number that only a group or session has
			return err
		}
		task, err := t.read(mem.Virt(link - t.pidLinks))
		out = append(out, task)
		return err
	})
	if err != nil {
		return out, fmt.Errorf("process numbers: %w", err)
	}
	return out, nil
}

// xarray visits the pointers of a struct xarray (include/linux/xarray.h, "The
// bottom two bits of the entry determine how the XArray interprets it").
func (p *Profile) xarray(head mem.Virt, visit func(mem.Virt) error) error {
	slots, err := p.Types.Member("xa_node", "slots")
	if err != nil {
		return err
	}
	if slots.Size > mem.PageSize {
		return fmt.Errorf("%w: node of %d bytes", ErrListTooLong, slots.Size)
	}
	budget := maxTasks
	var walk func(entry uint64, depth int) error
	walk = func(entry uint64, depth int) error {
		if budget--; budget < 0 || depth > maxDepth {
			return ErrListTooLong
		}
		switch {
		case entry == 0 || entry&1 != 0: // empty, or a number
			return nil
		case entry&3 == 0:
			return visit(mem.Virt(entry))
		case entry <= 4096: // internal: retry, zero, sibling
			return nil
		}
		raw := make([]byte, slots.Size)
		if err := p.Space.Read(raw, mem.Virt(entry&^3+slots.Offset)); err != nil {
			return err
		}
		for c := bin.Little(raw); c.Len() >= 8; {
			if err := walk(c.U64(), depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	entry, err := p.Space.U64(head)
	if err != nil {
		return err
	}
	return walk(entry, 0)
}

// RunningTasks lists what each CPU runs by its run queue (per-CPU runqueues,
// struct rq), idle tasks left out.
func (p *Profile) RunningTasks() ([]Task, error) {
	t, err := p.tasks()
	if err != nil {
		return nil, fmt.Errorf("running tasks: %w", err)
	}
	queues, ok := p.Symbol("runqueues")
	current, err1 := p.Types.Offset("rq", "curr")
	idle, err2 := p.Types.Offset("rq", "idle")
	if err := errors.Join(err1, err2); !ok || err != nil {
		return nil, fmt.Errorf("running tasks: %w: no runqueues (%w)", ErrNoSymbols, err)
	}
	bases, err := p.PerCPU()
	if err != nil {
		return nil, fmt.Errorf("running tasks: %w", err)
	}
	var out []Task
	for _, base := range bases {
		at, err1 := p.Space.U64(base + queues + mem.Virt(current))
		none, err2 := p.Space.U64(base + queues + mem.Virt(idle))
		if err := errors.Join(err1, err2); err != nil {
			return out, fmt.Errorf("running tasks: %w", err)
		}
		if at == none || at == 0 {
			continue
		}
		task, err := t.read(mem.Virt(at))
		if err != nil {
			return out, fmt.Errorf("running tasks: %w", err)
		}
		out = append(out, task)
	}
	return out, nil
}

// maxCPUs bounds what the target may claim; Debian's kernels are built for 8192.
const maxCPUs = 8192

// PerCPU returns what to add to a per-CPU symbol for each CPU that the kernel
// may have (__per_cpu_offset, nr_cpu_ids).
func (p *Profile) PerCPU() ([]mem.Virt, error) {
	table, ok1 := p.Symbol("__per_cpu_offset")
	count, ok2 := p.Symbol("nr_cpu_ids")
	if !ok1 || !ok2 {
		return nil, fmt.Errorf("per-CPU areas: %w", ErrNoSymbols)
	}
	n, err := p.Space.U32(count)
	if err != nil {
		return nil, fmt.Errorf("per-CPU areas: %w", err)
	}
	if n == 0 || n > maxCPUs {
		return nil, fmt.Errorf("per-CPU areas: %d CPUs", n)
	}
	raw := make([]byte, 8*n)
	if err := p.Space.Read(raw, table); err != nil {
		return nil, fmt.Errorf("per-CPU areas: %w", err)
	}
	out := make([]mem.Virt, 0, n)
	for c := bin.Little(raw); c.Len() >= 8; {
		out = append(out, mem.Virt(c.U64()))
	}
	return out, nil
}
