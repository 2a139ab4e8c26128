package check

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// A task that is being made has its number before any list has it, and who makes it
// may have to wait in between: for those who move tasks between control groups, who
// wait for a grace period of RCU, which a machine that is short of processors may not
// see for a minute (kernel/fork.c, copy_process, cgroup_can_fork; seen on 7.2). It is
// TASK_NEW from sched_fork until wake_up_new_task and cannot run. So one that only
// memory shows is waited for, and if it is new still, linux.processes is not measured:
// its state is the target's to say. Where others show it, it is no new one.
//
// Before sched_fork it is a copy of its parent, number and state included
// (dup_task_struct), and may wait there for memory (seen on 6.1, for ten seconds): one
// that has number, process and time of start of a listed task is taken for such.

const (
	taskNew        = 0x800 // TASK_NEW (include/linux/sched.h, 5.10 to 7.2)
	unbornPatience = 10 * time.Second
)

// unborn reports whether a task that is on no list is being made.
func (c *collector) unborn(t taskFact) bool {
	offset, err := c.profile.Types.Offset("task_struct", "__state")
	if err != nil {
		offset, err = c.profile.Types.Offset("task_struct", "state") // up to 5.13
	}
	if err != nil || t.Shown != inMemoryView {
		return false
	}
	state, err := c.profile.Space.U32(mem.Virt(t.At) + mem.Virt(offset))
	return err == nil && (state == taskNew || c.copied(t))
}

// copied reports whether a task has nothing of its own yet: it is told from a listed
// one by its address alone.
func (c *collector) copied(t taskFact) bool {
	offset, err := c.profile.Types.Offset("task_struct", "start_time")
	if err != nil {
		return false
	}
	listed, err := c.profile.Tasks()
	if err != nil {
		return false // read again in the next look
	}
	i := slices.IndexFunc(listed, func(l kernel.Task) bool {
		return l.PID == t.PID && l.TGID == t.TGID && address(l.At) != t.At
	})
	if i < 0 {
		return false
	}
	own, err1 := c.profile.Space.U64(mem.Virt(t.At) + mem.Virt(offset))
	parents, err2 := c.profile.Space.U64(listed[i].At + mem.Virt(offset))
	return err1 == nil && err2 == nil && own == parents
}

// unbornOf returns those of some tasks that are being made.
func (c *collector) unbornOf(tasks map[taskFact]bool) map[taskFact]bool {
	out := maps.Clone(tasks)
	maps.DeleteFunc(out, func(t taskFact, _ bool) bool { return !c.unborn(t) })
	return out
}

// awaitBorn compares again if some of the tasks that are on no list are being made,
// after it waited for those. It returns which are on no list still, and takes out of
// them those that were being made when it began to compare: one that is made a moment
// later is no other.
func (c *collector) awaitBorn(unlisted map[taskFact]bool, compare func() (map[taskFact]bool, error)) (unborn []taskFact, left map[taskFact]bool, err error) {
	if len(c.unbornOf(unlisted)) == 0 {
		return nil, unlisted, nil
	}
	c.await(unbornPatience, func() bool { return len(c.unbornOf(unlisted)) == 0 })
	still := c.unbornOf(unlisted)
	left, err = compare()
	maps.DeleteFunc(left, func(t taskFact, _ bool) bool {
		if still[t] {
			unborn = append(unborn, t)
		}
		return still[t] || !unlisted[t]
	})
	return unborn, left, err
}

// errUnborn names them.
func errUnborn(tasks []taskFact) error {
	var names []string
	for _, t := range tasks[:min(len(tasks), 8)] {
		names = append(names, t.name())
	}
	return fmt.Errorf("%d tasks are on no list yet and have been in the making for longer than a scan waits: %s", len(tasks), strings.Join(names, ", "))
}
