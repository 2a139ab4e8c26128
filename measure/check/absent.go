package check

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// A CPU that is off line was parked with all that the kernel set up in it. One
// that comes on line begins anew (arch/x86/kernel/smpboot.c): INIT clears its
// registers; it goes through the real mode trampoline, the kernel's first steps
// with the descriptor table of the image or of the CPU's own data
// (secondary_startup_64), and cpu_init, which writes the registers of system calls
// and at its end loads the table that is mapped in the CPU's entry area. Only
// then does start_secondary put it into cpu_online_mask. Until the last of these
// steps nothing of the CPU is as a running kernel has it.
//
// The VMM's CPUs are not numbered as the kernel's are. So a CPU that has not come
// so far is known by exclusion: if each CPU that is on line is one of the others,
// which the entry area tells, it is none. A CPU with a table elsewhere that the
// kernel says is on line stays in, and is a finding.
//
// The mask is the target's word, and who owns its kernel can clear a bit of it.
// So only a CPU that translates no addresses may be left out: no process and no
// interrupt gets from there to where the kernel is mapped. One that does is on its
// way for a moment. If it stays there, the kernel's word does not account for it:
// what is said of each CPU is then not measured, and if it runs a process, which no
// CPU does on its way, it is judged like the others.

// Bounds of looking again while CPUs come and go, in one scan: twelve seconds and
// what the looks take, which is the longer the busier the machine is. The kernel
// itself waits for a CPU on its way for ten (do_boot_cpu; since 6.5
// cpuhp_wait_for_sync_state).
const (
	cpuLooks     = 240
	cpuLookPause = 50 * time.Millisecond
)

// cpuWatch is what the looks at CPUs in one scan have seen of those that had not
// started, by the VMM's numbers.
type cpuWatch struct {
	looks   int
	paging  map[int]mem.Registers // they translated addresses
	process map[int]bool          // they ran a process, while all on line had started
}

// note adds what a look saw and reports whether it is settled: no CPU that had not
// started was ever seen to translate addresses.
func (w *cpuWatch) note(unstarted []mem.Registers, ok bool) (settled bool) {
	if w.paging == nil {
		w.paging, w.process = make(map[int]mem.Registers), make(map[int]bool)
	}
	w.looks++
	settled = ok
	for _, r := range unstarted {
		if r.CR0&mem.CR0PG != 0 {
			w.paging[r.CPU] = r
			w.process[r.CPU] = w.process[r.CPU] || ok && r.CPL == 3
		}
		if _, seen := w.paging[r.CPU]; seen {
			settled = false
		}
	}
	return settled
}

// absent are those of them that are not judged.
func (w *cpuWatch) absent(unstarted []mem.Registers) (out absentCPUs) {
	for _, r := range unstarted {
		if seen, ok := w.paging[r.CPU]; ok {
			r = seen
		}
		if !w.process[r.CPU] {
			out = append(out, absentCPU{CPU: r.CPU, CR0: r.CR0, GDT: address(r.GDT.Base), RIP: address(r.RIP)})
		}
	}
	return out
}

// leaveOut takes CPUs out of the scan that have not started.
func (c *collector) leaveOut() {
	if o, err := c.onlineCPUs(); err != nil {
		return // then all are judged
	} else if rest, _ := o.unstarted(c.registers, len(c.absent)); len(rest) > 0 {
		c.lookAtCPUs()
	}
}

// lookAtCPUs reads all CPUs again, between two looks at which are on line, until
// each has started or has not begun to, and those that have not are off line.
func (c *collector) lookAtCPUs() {
	for {
		before, err1 := c.onlineCPUs()
		registers, unread, err2 := c.readRegisters()
		after, err3 := c.onlineCPUs()
		if errors.Join(err1, err2, err3) != nil {
			return
		}
		maps.Copy(after.online, before.online)
		rest, ok := after.unstarted(registers, len(unread))
		if c.watch.note(rest, ok) || c.watch.looks >= cpuLooks || c.still {
			c.absent = unread
			if ok {
				c.absent = append(c.absent, c.watch.absent(rest)...)
			}
			c.registers = c.absent.without(registers)
			return
		}
		select {
		case <-c.ctx.Done():
			return
		case <-time.After(cpuLookPause):
		}
	}
}

// absentCPU is a CPU that is not on line and is not judged.
type absentCPU struct {
	CPU int     `json:"cpu"` // the VMM's index
	CR0 uint64  `json:"cr0"`
	GDT address `json:"gdt"`
	RIP address `json:"rip"`
	// Unread is set of one that is on line, whose own registers are not known.
	Unread string `json:"unread,omitempty"`
}

// absentCPUs are facts of each check that judges what each CPU has.
type absentCPUs []absentCPU

func (a absentCPUs) has(cpu int) bool {
	return slices.ContainsFunc(a, func(c absentCPU) bool { return c.CPU == cpu })
}

// without are the registers of the other CPUs.
func (a absentCPUs) without(registers []mem.Registers) []mem.Registers {
	return slices.DeleteFunc(slices.Clone(registers), func(r mem.Registers) bool { return a.has(r.CPU) })
}

// unaccounted is why what is said of each CPU is not known.
func (a absentCPUs) unaccounted() error {
	for _, c := range a {
		if c.Unread != "" {
			return fmt.Errorf("the registers of CPU %d are not known: %s", c.CPU, c.Unread)
		}
		if c.CR0&mem.CR0PG != 0 {
			return fmt.Errorf("CPU %d is not on line by the kernel's word, yet has paging on, at %v with its descriptor table at %v, and stayed so",
				c.CPU, c.RIP, c.GDT)
		}
	}
	return nil
}

// leftOut says which CPUs a check does not judge.
func (a absentCPUs) leftOut() string {
	if len(a) == 0 {
		return ""
	}
	numbers := make([]string, len(a))
	for i, c := range a {
		numbers[i] = strconv.Itoa(c.CPU)
	}
	return "left out, as not on line: CPU " + strings.Join(numbers, ", ")
}
