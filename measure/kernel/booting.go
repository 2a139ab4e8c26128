package kernel

import (
	"errors"
	"slices"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Booting reports whether the kernel has not come so far as to run its first
// program. Before that its text is writable, its start's memory is in use, and its
// CPUs lack features that it turns on one by one (init/main.c, kernel_init).
//
// By its own word, system_state is not SYSTEM_RUNNING; the first process has no
// memory of a user's, or is not there yet; and no CPU runs a program. All of it is
// the target's to say, so this is a reason for not measuring and no more.
func (p *Profile) Booting(regs []mem.Registers) bool {
	if slices.ContainsFunc(regs, func(r mem.Registers) bool { return r.CR0&mem.CR0PG != 0 && r.CPL == 3 }) {
		return false
	}
	at, ok := p.Symbol("system_state")
	running, found := p.running()
	if !ok || !found {
		return false
	}
	state, err := p.Space.U32(at)
	return err == nil && uint64(state) < running && !p.firstProgram()
}

// running is SYSTEM_RUNNING of this kernel (enum system_states,
// include/linux/kernel.h): states came before it in 5.14.
func (p *Profile) running() (value uint64, ok bool) {
	return p.Types.Enumerator("system_states", "SYSTEM_RUNNING")
}

// firstProgram reports whether process 1 has run a program, or cannot be told.
func (p *Profile) firstProgram() bool {
	t, err := p.tasks()
	mm, mmErr := p.Types.Offset("task_struct", "mm")
	head, ok := p.Symbol("init_task")
	if errors.Join(err, mmErr) != nil || !ok {
		return true
	}
	head += mem.Virt(t.list)
	next, err := p.Space.U64(head)
	if err != nil {
		return true
	}
	if mem.Virt(next) == head || next == 0 { // statically it is a list of itself
		return false
	}
	first := mem.Virt(next) - mem.Virt(t.list)
	pid, err1 := p.Space.U32(first + mem.Virt(t.pid))
	memory, err2 := p.Space.U64(first + mem.Virt(mm))
	return errors.Join(err1, err2) != nil || pid != 1 || memory != 0
}
