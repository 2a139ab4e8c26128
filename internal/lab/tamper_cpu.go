package lab

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"regexp"
	"strconv"

	"github.com/plumbline-sec/plumbline/internal/qmp"
)

// cpuTampers are of whole CPUs.
var cpuTampers = []Tamper{
	{
		Name: "cpu-off-mask", Check: "linux.gdt", Unmeasured: true,
		Doc:   "have CPU 1 use another descriptor table, while the kernel's mask says that it is not on line",
		apply: hideCPU,
	},
}

// hideCPU makes what an attacker makes who clears the CPU's bit in
// __cpu_online_mask: but on a CPU that is parked, since one that runs without its
// bit is told of no change to page tables or code, and the machine would not last.
// The other table is the CPU's own writable mapping of its table (per-CPU
// gdt_page), which has the same descriptors.
func hideCPU(ctx context.Context, c *change) error {
	at, err := c.symbols(ctx, "__per_cpu_offset", "gdt_page", "entry_SYSCALL_64", "entry_SYSCALL_compat")
	if err != nil {
		return err
	}
	mem, err := c.memory(ctx)
	if err != nil {
		return err
	}
	own, err := mem.readWord(at[0] + 8)
	if err != nil {
		return err
	}
	const offline, online = "echo 0 > /sys/devices/system/cpu/cpu1/online", "echo 1 > /sys/devices/system/cpu/cpu1/online"
	if err := c.shell(ctx, offline, online); err != nil {
		return err
	}
	table, err := c.machine.gdtOfCPU1(ctx)
	if err != nil {
		return err
	}
	register, err := c.machine.findGDT(ctx, table, at[2], at[3])
	if err != nil {
		return err
	}
	if err := c.record(undoStep{Process: true, Address: register, Bytes: word(table)}); err != nil {
		return err
	}
	return c.machine.writeProcess(register, word(own+at[1]))
}

var cpu1GDT = regexp.MustCompile(`(?s)CPU#1\b.*?\nGDT= +([0-9a-f]+) `)

// gdtOfCPU1 is where the monitor says that CPU 1 has its descriptor table.
func (m *Machine) gdtOfCPU1(ctx context.Context) (uint64, error) {
	monitor, err := qmp.Dial(ctx, m.LabQMP)
	if err != nil {
		return 0, err
	}
	defer monitor.Close()
	text, err := monitor.HMP(ctx, "info registers -a")
	if err != nil {
		return 0, err
	}
	match := cpu1GDT.FindStringSubmatch(text)
	if match == nil {
		return 0, fmt.Errorf("no CPU 1: %w", ErrNoSubject)
	}
	return strconv.ParseUint(match[1], 16, 64)
}

// findGDT finds CPU 1's descriptor table register in QEMU's memory: before the
// registers of its system calls, with its limit after it (struct CPUArchState,
// target/i386/cpu.h, 7.2).
func (m *Machine) findGDT(ctx context.Context, base, lstar, cstar uint64) (at uint64, err error) {
	states, err := m.cpuStates(ctx, lstar, cstar)
	if err != nil {
		return 0, err
	}
	state, err := m.readProcess(states[1]-beforeSTAR, beforeSTAR)
	if err != nil {
		return 0, err
	}
	const limit = 127 // bytes
	i := bytes.LastIndex(state, binary.LittleEndian.AppendUint32(word(base), limit))
	if i < 0 {
		return 0, fmt.Errorf("%w: CPU 1 has no descriptor table at %#x", errNoCPUState, base)
	}
	return states[1] - beforeSTAR + uint64(i), nil
}
