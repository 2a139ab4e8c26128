package linux

import "github.com/plumbline-sec/plumbline/filewatch/trap"

// pfKthread marks kernel threads in task_struct.flags (include/linux/sched.h).
const pfKthread = 0x00200000

// actor decodes the current task and its ancestors.
func (d *Driver) actor(v *view, task uint64, rec *trap.Record) {
	if v.u32(task+d.l.Task.Flags)&pfKthread != 0 {
		rec.Marks |= trap.KernelThread
	}
	rec.Actor = d.task(v, task)
	for i := range rec.Parent {
		parent := v.u64(task + d.l.Task.RealParent)
		if parent == 0 || parent == task {
			return
		}
		// The root of the tree is the idle task, pid 0.
		if rec.Parent[i] = d.task(v, parent); rec.Parent[i].TID == 0 {
			return
		}
		task = parent
	}
}

func (d *Driver) task(v *view, task uint64) trap.Task {
	cred := v.u64(task + d.l.Task.Cred)
	t := trap.Task{
		TID: v.u32(task + d.l.Task.PID), PID: v.u32(task + d.l.Task.TGID),
		UID: v.u32(cred + d.l.Cred.FSUID), GID: v.u32(cred + d.l.Cred.FSGID),
		RealUID: v.u32(cred + d.l.Cred.UID),
	}
	t.Comm = string(v.fixed(task+d.l.Task.Comm, d.comm[:]))
	return t
}
