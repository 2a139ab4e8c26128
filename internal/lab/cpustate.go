package lab

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/plumbline-sec/plumbline/internal/gdbstub"
)

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

// beforeSTAR bounds how far before STAR the state begins, in bytes: the FPU and
// the tiles of AMX lie between.
const beforeSTAR = 16 << 10

// stateBegins are the registers that CPUX86State begins with. RIP follows, in QEMU
// 11.1 after the sixteen more of APX.
var stateBegins = []string{"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
	"r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"}

var errNoCPUState = errors.New("QEMU's memory does not show the CPUs' registers")

// cpuStates finds STAR of each CPU in QEMU's memory, by number. A place counts if
// it begins with the registers that the CPU has now: where a CPU was started anew
// a copy of what it had before stays in memory that was freed (do_cpu_init,
// target/i386/helper.c).
func (m *Machine) cpuStates(ctx context.Context, lstar, cstar uint64) (states []uint64, err error) {
	if m.Accel != accelTCG {
		return nil, fmt.Errorf("%w: it runs with %s", errNoCPUState, m.Accel)
	}
	stub, err := gdbstub.Dial(ctx, m.GDB) // it stands still until this is closed
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stub.Close()) }()
	candidates, err := m.likeStates(lstar, cstar)
	if err != nil {
		return nil, err
	}
	for cpu := range m.CPUs {
		var begins []byte
		for _, name := range stateBegins {
			value, err := stub.ReadRegister(cpu, name)
			if err != nil {
				return nil, err
			}
			begins = append(begins, word(value)...)
		}
		rip, err := stub.ReadRegister(cpu, "rip")
		if err != nil {
			return nil, err
		}
		var of []uint64
		for _, at := range candidates {
			if before, err := m.readProcess(at-beforeSTAR, beforeSTAR); err == nil && hasState(before, begins, word(rip)) {
				of = append(of, at)
			}
		}
		if len(of) != 1 {
			return nil, fmt.Errorf("%w: of %d places that look like a CPU %d have the registers of CPU %d", errNoCPUState, len(candidates), len(of), cpu)
		}
		states = append(states, of[0])
	}
	return states, nil
}

// hasState says whether registers are in memory with RIP behind them.
func hasState(b, begins, rip []byte) bool {
	for {
		_, after, found := bytes.Cut(b, begins)
		if !found {
			return false
		}
		if bytes.HasPrefix(after, rip) || len(after) >= 128 && bytes.HasPrefix(after[128:], rip) {
			return true
		}
		b = after
	}
}

// likeStates finds what looks like STAR, followed by a word, LSTAR and CSTAR.
func (m *Machine) likeStates(lstar, cstar uint64) (found []uint64, err error) {
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", m.PID))
	if err != nil {
		return nil, err
	}
	defer maps.Close()
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
