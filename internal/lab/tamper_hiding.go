package lab

import (
	"context"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
)

// hidingTampers take something out of one of the lists in which it can be
// seen, while it stays where it works.
var hidingTampers = []Tamper{
	{
		Name: "module-hidden", Check: "linux.modules",
		Doc:   "load a module and take it off the list of modules",
		apply: hideModule,
	},
	{
		Name: "process-hidden", Check: "linux.processes",
		Doc:   "take a process off the list of processes",
		apply: hideProcess,
	},
	{
		Name: "process-hidden-asleep", Check: "linux.processes",
		Doc:   "take a sleeping process off the list of processes and out of the table of their numbers",
		apply: hideProcessEverywhere,
	},
	{
		Name: "process-hidden-realtime", Check: "linux.processes",
		Doc:   "take a real-time process that waits for a CPU off the list of processes and out of the table of their numbers",
		apply: hideRealTimeProcess,
	},
}

// hideModule loads two modules with a third between them, so that the list
// around the hidden one stays still.
func hideModule(ctx context.Context, c *change) error {
	err := c.shell(ctx, `set -e; modprobe dummy; modprobe veth; modprobe tun`,
		`modprobe -r tun; modprobe -r veth; modprobe -r dummy`)
	if err != nil {
		return err
	}
	head, named, err := c.moduleNamed(ctx, "veth")
	if err != nil {
		return err
	}
	return c.unlink(ctx, head, named)
}

// moduleNamed returns the head of the list of modules, and what tells one by its
// name.
func (c *change) moduleNamed(ctx context.Context, want string) (head uint64, matches func(entry uint64) (bool, error), err error) {
	at, err := c.symbols(ctx, "modules")
	if err != nil {
		return 0, nil, err
	}
	list, err := c.offset(ctx, "module", "list")
	if err != nil {
		return 0, nil, err
	}
	name, err := c.offset(ctx, "module", "name")
	if err != nil {
		return 0, nil, err
	}
	return at[0], func(entry uint64) (bool, error) {
		text := make([]byte, len(want)+1)
		err := c.mem.read(entry-list+name, text)
		return string(text) == want+"\x00", err
	}, nil
}

// hideProcess hides a process that sleeps.
func hideProcess(ctx context.Context, c *change) error {
	return hideSecond(ctx, c, `for i in 1 2 3; do sleep 86400 <&- >&- 2>&- & echo $! >> /run/lab-process-hidden; done`)
}

// hideSecond starts three processes and hides the second, so that the list around
// it stays still.
func hideSecond(ctx context.Context, c *change, start string) error {
	err := c.shell(ctx, start,
		`pids=$(cat /run/lab-process-hidden) || exit 0
		kill $pids
		for try in $(seq 1500); do # until init has buried all of them
			alive=
			for pid in $pids; do [ ! -d /proc/$pid ] || alive=yes; done
			[ -n "$alive" ] || break
			sleep 0.2
		done
		rm /run/lab-process-hidden`)
	if err != nil {
		return err
	}
	out, err := c.machine.Shell(ctx, "cat /run/lab-process-hidden")
	if err != nil {
		return err
	}
	pids := strings.Fields(out)
	if len(pids) != 3 {
		return fmt.Errorf("started processes %q, want three", pids)
	}
	pid, err := strconv.ParseUint(pids[1], 10, 32)
	if err != nil {
		return err
	}
	tasks, err := c.offset(ctx, "task_struct", "tasks")
	if err != nil {
		return err
	}
	number, err := c.offset(ctx, "task_struct", "pid")
	if err != nil {
		return err
	}
	at, err := c.symbols(ctx, "init_task")
	if err != nil {
		return err
	}
	return c.unlink(ctx, at[0]+tasks, func(entry uint64) (bool, error) {
		var raw [4]byte
		err := c.mem.read(entry-tasks+number, raw[:])
		return uint64(binary.LittleEndian.Uint32(raw[:])) == pid, err
	})
}

// hideProcessEverywhere hides a process as hideProcess does, and from those who
// look for its number.
func hideProcessEverywhere(ctx context.Context, c *change) error {
	if err := hideProcess(ctx, c); err != nil {
		return err
	}
	return hideNumber(ctx, c)
}

// hideRealTimeProcess has two processes of the real-time class on one CPU, of
// which one runs and the other waits in the queue of their priority for good: the
// second, as a rule. The scheduler's limit for that class leaves the CPU to others
// for nine tenths of the time, and takes nothing from the queue.
func hideRealTimeProcess(ctx context.Context, c *change) error {
	err := c.shell(ctx, `cat /proc/sys/kernel/sched_rt_runtime_us > /run/lab-rt-runtime
		echo 100000 > /proc/sys/kernel/sched_rt_runtime_us`,
		`cat /run/lab-rt-runtime > /proc/sys/kernel/sched_rt_runtime_us && rm /run/lab-rt-runtime`)
	if err != nil {
		return err
	}
	err = hideSecond(ctx, c, `cpu=$(($(nproc) - 1))
		for i in 1 2; do
			chrt -f 1 taskset -c $cpu sh -c 'while :; do :; done' <&- >&- 2>&- & echo $! >> /run/lab-process-hidden
		done
		sleep 86400 <&- >&- 2>&- & echo $! >> /run/lab-process-hidden
		for pid in $(head -n 2 /run/lab-process-hidden); do
			until chrt -p $pid | grep -q SCHED_FIFO && taskset -cp $pid | grep -q ": $cpu$"; do sleep 0.1; done
		done`)
	if err != nil {
		return err
	}
	return hideNumber(ctx, c)
}

// hideNumber takes the process that hideSecond hid from those who look for its
// number.
func hideNumber(ctx context.Context, c *change) error {
	// What was unlinked is where the first step that wrote memory says: behind
	// the entry before it.
	var task uint64
	for _, step := range c.undo {
		if step.Address != 0 && task == 0 {
			task = binary.LittleEndian.Uint64(step.Bytes) // what "next" was
		}
	}
	list, err := c.offset(ctx, "task_struct", "tasks")
	if err != nil {
		return err
	}
	number, err := c.offset(ctx, "task_struct", "thread_pid")
	if err != nil {
		return err
	}
	tasks, err := c.offset(ctx, "pid", "tasks")
	if err != nil {
		return err
	}
	pid, err := c.mem.readWord(task - list + number)
	if err != nil {
		return err
	}
	return c.write(ctx, pid+tasks, word(0)) // PIDTYPE_PID
}

// maxList bounds a walk along a list of the guest.
const maxList = 1 << 16

// entry finds what matches on a list (struct list_head: next, then prev).
func (c *change) entry(ctx context.Context, head uint64, matches func(entry uint64) (bool, error)) (uint64, error) {
	mem, err := c.memory(ctx)
	if err != nil {
		return 0, err
	}
	entry := head
	for range maxList {
		if entry, err = mem.readWord(entry); err != nil {
			return 0, err
		}
		if entry == head {
			break
		}
		if found, err := matches(entry); err != nil || found {
			return entry, err
		}
	}
	return 0, fmt.Errorf("nothing on the list at %#x matches", head)
}

// unlink takes the entry that matches off a list. The entry itself keeps pointing
// into the list.
func (c *change) unlink(ctx context.Context, head uint64, matches func(entry uint64) (bool, error)) error {
	entry, err := c.entry(ctx, head, matches)
	if err != nil {
		return err
	}
	next, err := c.mem.readWord(entry)
	if err != nil {
		return err
	}
	prev, err := c.mem.readWord(entry + 8)
	if err != nil {
		return err
	}
	if err := c.write(ctx, prev, word(next)); err != nil {
		return err
	}
	return c.write(ctx, next+8, word(prev))
}
