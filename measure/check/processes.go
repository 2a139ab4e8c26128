package check

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
)

// linux.processes: the kernel's list of processes with their threads, its table
// of process numbers, what its CPUs run, what each class of the scheduler has
// queued, and the tasks that lie in its memory, wherever nothing leads, all show
// the same tasks. Each listed process has credentials of its own (credentials.go).
//
// Proves: that no process hides in one of these views and shows in another: one
// that left the list and the table, running or asleep, still lies in memory. That
// none was given the rights of another, or the kernel's, by a pointer.
// Trusts: that each view is the kernel's own. It cannot see a task whose memory
// is not from the cache of tasks, or that looks freed, while it does not run, nor
// rights that were written into a process's own credentials.
const processesName = "linux.processes"

func processesCheck() check {
	return check{name: processesName, collect: collectProcesses, judge: judgeProcesses}
}

// processesData are the facts of linux.processes.
type processesData struct {
	Listed   int        `json:"listed"`   // tasks on the list
	Numbered int        `json:"numbered"` // tasks with a number
	Running  int        `json:"running"`  // tasks on a CPU
	Queued   int        `json:"queued"`   // tasks that wait for one
	InMemory int        `json:"in_memory"`
	Blind    []string   `json:"blind,omitempty"`  // views that this kernel does not give, and why
	Unread   []string   `json:"unread,omitempty"` // views that could not be read to their end, and why
	Unlisted []taskFact `json:"unlisted,omitempty"`
	Unborn   []taskFact `json:"unborn,omitempty"` // on no list, as they are being made

	QueuedBy map[string]int `json:"queued_by,omitempty"` // Queued, by class of the scheduler

	Shared []credentialFact `json:"shared,omitempty"` // processes with one set of credentials

	listed []kernel.Task // the list of the last comparison
}

// inMemoryView is the view that finds tasks by the allocator's account.
const inMemoryView = "memory"

// taskFact is a task that a view lacks.
type taskFact struct {
	At      address `json:"at"`
	PID     int32   `json:"pid"`
	TGID    int32   `json:"tgid"`
	Comm    string  `json:"comm"`
	Shown   string  `json:"shown"`   // the view that has it
	Missing string  `json:"missing"` // the view that lacks it
}

// Tasks come and go while they are read: a difference counts if every comparison
// has it for as long as lastingTime. A task that is being made lies in memory, as
// a copy of its parent, before anything lists it, and may wait there for memory
// or for a CPU. A list may be cut while it is walked: then it is read again.
// Whoever measures may be so short of processors that one comparison takes longer
// than all that, and a task that was made while it ran is in one view and not in
// the other: so the time counts from the end of the first, and there are at least
// lastingLooks of them.
const (
	lastingTime  = 3 * time.Second
	lastingPause = 25 * time.Millisecond
	lastingLooks = 4
)

// lasting compares views until no difference is left, or for so long that those
// left are none of passing.
func lasting[T comparable](ctx context.Context, compare func() (map[T]bool, error)) (map[T]bool, error) {
	var left map[T]bool
	var err error
	var began time.Time // when the first comparison was done
	looks := 0          // comparisons that could be made
	for tries := 1; ; tries++ {
		found, compareErr := compare()
		if tries == 1 {
			began = time.Now()
		}
		if compareErr == nil {
			looks++
		}
		switch {
		case compareErr != nil:
			err = compareErr
		case left == nil:
			left = found
		default:
			maps.DeleteFunc(left, func(fact T, _ bool) bool { return !found[fact] })
		}
		if left != nil && len(left) == 0 {
			return left, nil
		}
		if time.Since(began) > lastingTime && (looks >= lastingLooks || tries >= 2*lastingLooks) {
			if looks < lastingLooks {
				return nil, err // too few to tell what lasts
			}
			return left, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(lastingPause):
		}
	}
}

func collectProcesses(c *collector) (any, measure.Coverage, error) {
	names := make(map[address]string) // of tasks: one that renames itself is the same
	var data processesData
	compare := func() (left map[taskFact]bool, err error) {
		data, left, err = c.lastingTasks(names)
		return left, err
	}
	unlisted, err := compare()
	if err != nil {
		return nil, measure.Coverage{}, err
	}
	unborn, unlisted, err := c.awaitBorn(unlisted, compare)
	if err != nil {
		return nil, measure.Coverage{}, err
	}
	data.Unborn = slices.SortedFunc(slices.Values(unborn), taskFact.compare)
	data.Unlisted = slices.SortedFunc(maps.Keys(unlisted), taskFact.compare)
	var unshared error
	if data.Shared, unshared = c.credentials(data.listed); unshared != nil {
		data.Unread = append(data.Unread, "credentials: "+unshared.Error()) // what else was seen counts all the same
	}
	for _, facts := range [][]taskFact{data.Unborn, data.Unlisted} {
		for i := range facts {
			facts[i].Comm = names[facts[i].At]
		}
	}
	return data, measure.Coverage{Objects: int64(data.Listed)}, nil
}

func (t taskFact) compare(o taskFact) int {
	return cmp.Or(cmp.Compare(t.PID, o.PID), cmp.Compare(t.At, o.At), cmp.Compare(t.Shown, o.Shown))
}

func (t taskFact) name() string { return fmt.Sprintf("%s (pid %d, process %d)", t.Comm, t.PID, t.TGID) }

// lastingTasks returns the tasks that views lack and that is none of passing.
func (c *collector) lastingTasks(names map[address]string) (data processesData, unlisted map[taskFact]bool, err error) {
	var unread []string // of the last comparison that had any
	unlisted, err = lasting(c.ctx, func() (map[taskFact]bool, error) {
		seen, found, err := c.compareProcesses(names)
		if err == nil && len(seen.Unread) > 0 { // a queue changed: read again
			unread, err = seen.Unread, errUnread
		}
		if err != nil {
			return nil, err
		}
		data = seen
		return found, nil
	})
	if errors.Is(err, errUnread) { // never whole: what the other views show counts
		unlisted, err = lasting(c.ctx, func() (map[taskFact]bool, error) {
			seen, found, err := c.compareProcesses(names)
			if err == nil {
				data = seen
				data.Unread = unread
			}
			return found, err
		})
	}
	return data, unlisted, err
}

var errUnread = errors.New("a view of the tasks could not be read to its end")

// compareProcesses reads the views once. What it finds has no Comm: that is noted
// in names.
func (c *collector) compareProcesses(names map[address]string) (processesData, map[taskFact]bool, error) {
	listed, err1 := c.profile.Tasks()
	numbered, err2 := c.profile.TasksByPID()
	running, err3 := c.profile.RunningTasks()
	queues, blindQueues := c.profile.QueuedTasks()
	inMemory, blindMemory := c.profile.TasksInMemory(listed)
	if err := errors.Join(err1, err2, err3); err != nil {
		return processesData{}, nil, err
	}
	data := processesData{Listed: len(listed), Numbered: len(numbered), Running: len(running),
		InMemory: len(inMemory), QueuedBy: make(map[string]int), listed: listed}
	for _, err := range []error{blindQueues, blindMemory} {
		switch {
		case errors.Is(err, kernel.ErrSlab):
			data.Unread = append(data.Unread, err.Error())
		case err != nil:
			data.Blind = append(data.Blind, err.Error())
		}
	}
	found := make(map[taskFact]bool)
	missing := func(shown []kernel.Task, by string, from []kernel.Task, in string) {
		have := make(map[kernel.Task]bool, len(from))
		for _, t := range from {
			t.Comm = "" // may change meanwhile
			have[t] = true
		}
		for _, t := range shown {
			key := t
			key.Comm = ""
			if !have[key] {
				names[address(t.At)] = t.Comm
				found[taskFact{At: address(t.At), PID: t.PID, TGID: t.TGID, Shown: by, Missing: in}] = true
			}
		}
	}
	const list, numbers = "list of processes", "table of process numbers"
	missing(numbered, numbers, listed, list)
	missing(listed, list, numbered, numbers)
	known := slices.Concat(listed, numbered)
	missing(running, "CPUs", known, list)
	for _, queue := range queues {
		missing(queue.Tasks, queue.Class+" run queue", known, list)
		data.Queued += len(queue.Tasks)
		data.QueuedBy[queue.Class] = len(queue.Tasks)
		switch {
		case errors.Is(queue.Err, kernel.ErrNoMember):
			data.Blind = append(data.Blind, queue.Err.Error())
		case queue.Err != nil:
			data.Unread = append(data.Unread, queue.Err.Error())
		}
	}
	missing(inMemory, inMemoryView, known, list)
	return data, found, nil
}

func judgeProcesses(_ *judging, raw json.RawMessage, out *measure.Check) error {
	var data processesData
	if err := decode(raw, &data); err != nil {
		return err
	}
	if data.Listed == 0 || data.Numbered == 0 {
		return errNotObserved
	}
	if len(data.Blind) > 0 {
		out.Reason = "not seen: " + strings.Join(data.Blind, "; ")
	}
	for _, t := range data.Unlisted {
		out.Findings = append(out.Findings, measure.Finding{
			Address: t.At.String(), Symbol: t.name(),
			Explanation: fmt.Sprintf("a task that the %s shows and the %s does not", t.Shown, t.Missing),
		})
	}
	err := judgeCredentials(data.Shared, out)
	if len(data.Unborn) > 0 {
		return errUnborn(data.Unborn)
	}
	if len(data.Unread) > 0 {
		return fmt.Errorf("%w: %s", errUnread, strings.Join(data.Unread, "; "))
	}
	return err
}
