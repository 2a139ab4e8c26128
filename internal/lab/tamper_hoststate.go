package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"github.com/plumbline-sec/plumbline/internal/qmp"
)

// hostStateTampers change what Xen's registers will be when a CPU leaves the
// hardware-assisted domain that it runs. Each stops the machine while one does, and
// leaves it so: the processor writes these registers anew each time it enters a domain.
var hostStateTampers = []Tamper{
	{
		Name: "xen-host-rip", Check: "xen.registers",
		Doc:   "have a CPU that runs a domain go on elsewhere in Xen when it leaves that",
		apply: changeHostState("per_cpu__hsa", vmcbRIP, 0x10),
	},
	{
		Name: "xen-host-idt", Check: "xen.idt",
		Doc:   "have a CPU that runs a domain use another interrupt table when it leaves that",
		apply: changeHostState("per_cpu__hsa", vmcbIDT, 0x1000),
	},
	{
		Name: "xen-host-lstar", Check: "xen.msrs",
		Doc:   "have system calls of PV guests enter elsewhere after a CPU has left the domain that it runs",
		apply: changeHostState("per_cpu__host_vmcb", vmcbLSTAR, 8),
	},
}

// Offsets into a VMCB, and under TCG into the page with the host's state (AMD64 APM
// vol. 2, table B-2).
const (
	vmcbIDT   = 0x488
	vmcbRIP   = 0x578
	vmcbLSTAR = 0x608
)

// domainTables is CR3 of each hardware-assisted domain (hvmdomain: tablesAt).
const domainTables = 0x101000

// Bounds of waiting until a CPU runs a domain, or does not.
const (
	domainLooks = 1000
	domainPause = 10 * time.Millisecond
)

func changeHostState(page string, offset, by uint64) func(context.Context, *change) error {
	return func(ctx context.Context, c *change) error {
		at, err := c.xenSymbols(page, "__per_cpu_offset")
		if err != nil {
			return err
		}
		mem, err := c.memory(ctx)
		if err != nil {
			return err
		}
		cpu, err := c.stopInDomain(ctx)
		if err != nil {
			return err
		}
		own, err := mem.readWord(at[1] + 8*uint64(cpu))
		if err != nil {
			return err
		}
		phys, err := mem.readWord(at[0] + own)
		if err != nil {
			return err
		}
		var old [8]byte
		if err := mem.readPhys(phys+offset, old[:]); err != nil {
			return err
		}
		return c.writePhys(ctx, phys+offset, wordOf(old[:])+by)
	}
}

var everyCR3 = regexp.MustCompile(`(?s)CPU#(\d+)\b.*?\bCR3=([0-9a-f]+)`)

// stopInDomain stops the machine while a CPU runs a domain, and returns which.
func (c *change) stopInDomain(ctx context.Context) (cpu int, err error) {
	monitor, err := qmp.Dial(ctx, c.machine.LabQMP)
	if err != nil {
		return 0, err
	}
	defer monitor.Close()
	if err := c.record(undoStep{Resume: true}); err != nil {
		return 0, err
	}
	for range domainLooks {
		if err := monitor.Execute(ctx, "stop", nil, nil); err != nil {
			return 0, err
		}
		cpu, ok, err := inDomain(ctx, monitor)
		if err != nil || ok {
			return cpu, err
		}
		if err := monitor.Execute(ctx, "cont", nil, nil); err != nil {
			return 0, err
		}
		time.Sleep(domainPause)
	}
	return 0, fmt.Errorf("no CPU runs a domain: %w", ErrNoSubject)
}

// inDomain returns a CPU that runs a domain.
func inDomain(ctx context.Context, monitor *qmp.Client) (cpu int, ok bool, err error) {
	text, err := monitor.HMP(ctx, "info registers -a")
	if err != nil {
		return 0, false, err
	}
	for _, match := range everyCR3.FindAllStringSubmatch(text, -1) {
		if cr3, err := strconv.ParseUint(match[2], 16, 64); err == nil && cr3 == domainTables {
			cpu, err = strconv.Atoi(match[1])
			return cpu, err == nil, err
		}
	}
	return 0, false, nil
}

// seenInDomain waits until a CPU runs a domain.
func (m *Machine) seenInDomain(ctx context.Context) error {
	monitor, err := qmp.Dial(ctx, m.LabQMP)
	if err != nil {
		return err
	}
	defer monitor.Close()
	for range domainLooks {
		if _, ok, err := inDomain(ctx, monitor); ok || err != nil {
			return err
		}
		time.Sleep(domainPause)
	}
	return errNeverRuns
}

// registersOfXen are those of CPU 0 while it does not run a domain.
func (m *Machine) registersOfXen(ctx context.Context) (registers, error) {
	for range domainLooks {
		r, err := m.readRegisters(ctx)
		if err != nil || r.cr3 != domainTables {
			return r, err
		}
		time.Sleep(domainPause)
	}
	return registers{}, errors.New("CPU 0 runs a domain all the time")
}

// monitor has QEMU carry out a command.
func (m *Machine) monitor(ctx context.Context, command string) error {
	monitor, err := qmp.Dial(ctx, m.LabQMP)
	if err != nil {
		return err
	}
	defer monitor.Close()
	return monitor.Execute(ctx, command, nil, nil)
}

func wordOf(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }
