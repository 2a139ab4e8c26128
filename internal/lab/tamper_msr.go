package lab

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// msrTampers change the registers of system calls. Neither the monitor nor the
// gdb stub writes them, and lockdown keeps the guest's root from doing so; under
// TCG they are words in QEMU's memory, where a module of an attacker's that runs
// in the guest's kernel would change them too, with WRMSR.
var msrTampers = []Tamper{
	{
		Name: "msr-lstar", Check: "linux.msrs",
		Doc:   "enter system calls of CPU 1 at a jump between two functions, which goes to the kernel's entry as a hook would in the end",
		apply: enterThroughJump,
	},
	{
		Name: "msr-sysenter", Check: "linux.msrs",
		Doc: "have SYSENTER of CPU 0 enter at another function",
		apply: func(ctx context.Context, c *change) error {
			target, err := c.symbols(ctx, "commit_creds")
			if err != nil {
				return err
			}
			return c.writeMSR(ctx, 0, msrSysenterEIP, target[0])
		},
	},
	{
		Name: "msr-fmask", Check: "linux.msrs",
		Doc: "let system calls of CPU 0 keep the alignment check flag, which opens processes' memory to the kernel",
		apply: func(ctx context.Context, c *change) error {
			return c.writeMSR(ctx, 0, msrFMASK, fmask&^(1<<18))
		},
	},
}

// enterThroughJump puts a jump to the entry into what fills the space between two
// functions of entry text and points LSTAR there: the guest goes on as before.
func enterThroughJump(ctx context.Context, c *change) error {
	at, err := c.symbols(ctx, "entry_SYSCALL_64", "__entry_text_start", "__entry_text_end")
	if err != nil {
		return err
	}
	mem, err := c.memory(ctx)
	if err != nil {
		return err
	}
	text := make([]byte, at[2]-at[1])
	if err := mem.read(at[1], text); err != nil {
		return err
	}
	const jump = 5 // bytes: opcode and distance
	gap := bytes.Index(text, bytes.Repeat([]byte{0xcc}, 2*jump))
	if gap < 0 {
		return fmt.Errorf("entry text has no space left: %w", ErrNoSubject)
	}
	hook := at[1] + uint64(gap) + jump
	code := binary.LittleEndian.AppendUint32([]byte{0xe9}, uint32(at[0]-hook-jump))
	if err := c.write(ctx, hook, code); err != nil {
		return err
	}
	return c.writeMSR(ctx, 1, msrLSTAR, hook)
}

// What the kernel writes into STAR (segments) and FMASK (flags), the latter
// since 5.14 (syscall_init, arch/x86/kernel/cpu/common.c).
const (
	star  = 0x0023_0010_0000_0000
	fmask = 0x25_7fd5
)

// Offsets of registers from STAR in QEMU's CPUX86State (target/i386/cpu.h, 7.2).
const (
	msrSysenterEIP = -8
	msrLSTAR       = 16 // SVM's host state area is between
	msrFMASK       = 32
)

var errNoCPUState = errors.New("QEMU's memory does not show the CPUs' registers")

// writeMSR changes one register of a CPU in QEMU's memory.
func (c *change) writeMSR(ctx context.Context, cpu int, register int64, value uint64) error {
	if c.machine.Accel != accelTCG {
		return fmt.Errorf("%w: it runs with %s", errNoCPUState, c.machine.Accel)
	}
	entries, err := c.symbols(ctx, "entry_SYSCALL_64", "entry_SYSCALL_compat")
	if err != nil {
		return err
	}
	states, err := c.machine.cpuStates(entries[0], entries[1])
	if err != nil {
		return err
	}
	if len(states) != c.machine.CPUs {
		return fmt.Errorf("%w: %d places look like %d CPUs", errNoCPUState, len(states), c.machine.CPUs)
	}
	at := uint64(int64(states[cpu]) + register)
	old, err := c.machine.readProcess(at, 8)
	if err != nil {
		return err
	}
	if err := c.record(undoStep{Process: true, Address: at, Bytes: old}); err != nil {
		return err
	}
	return c.machine.writeProcess(at, word(value))
}

// cpuStates finds STAR of each CPU: followed by a word, LSTAR and CSTAR. CPUs are
// allocated one after the other; which is which does not matter to tampers, but
// lower addresses come first.
func (m *Machine) cpuStates(lstar, cstar uint64) ([]uint64, error) {
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", m.PID))
	if err != nil {
		return nil, err
	}
	defer maps.Close()
	var found []uint64
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		var start, end uint64
		var mode string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &start, &end, &mode); err != nil || mode != "rw-p" || strings.Contains(lines.Text(), "/") {
			continue
		}
		b, err := m.readProcess(start, int(end-start))
		if err != nil {
			continue // a stack's guard, or gone
		}
		pattern := append(word(lstar), word(cstar)...)
		for at := 0; ; {
			i := bytes.Index(b[at:], pattern)
			if i < 0 {
				break
			}
			at += i + len(pattern)
			if state := at - len(pattern) - msrLSTAR; state >= 0 && bytes.Equal(b[state:state+8], word(star)) {
				found = append(found, start+uint64(state))
			}
		}
	}
	slices.Sort(found)
	return found, lines.Err()
}

func (m *Machine) readProcess(at uint64, size int) ([]byte, error) {
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", m.PID))
	if err != nil {
		return nil, err
	}
	defer mem.Close()
	b := make([]byte, size)
	_, err = mem.ReadAt(b, int64(at))
	return b, err
}

func (m *Machine) writeProcess(at uint64, data []byte) error {
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", m.PID), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	_, err = mem.WriteAt(data, int64(at))
	return errors.Join(err, mem.Close())
}
