package kernel

import (
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Credentials says whose rights a task has.
type Credentials struct {
	Task Task
	At   mem.Virt // its struct cred: what others see of it (real_cred)
	User bool     // it has memory of its own, and is no thread of the kernel
}

// kernelThread is PF_KTHREAD (include/linux/sched.h, 5.10 to 7.2).
const kernelThread = 0x0020_0000

// Credentials reads the credentials of tasks. Tasks that have gone are left out.
func (p *Profile) Credentials(tasks []Task) ([]Credentials, error) {
	flags, err1 := p.Types.Offset("task_struct", "flags")
	memory, err2 := p.Types.Offset("task_struct", "mm")
	cred, err3 := p.Types.Offset("task_struct", "real_cred")
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	out := make([]Credentials, 0, len(tasks))
	for _, t := range tasks {
		f, err1 := p.Space.U32(t.At + mem.Virt(flags))
		mm, err2 := p.Space.U64(t.At + mem.Virt(memory))
		at, err3 := p.Space.U64(t.At + mem.Virt(cred))
		if errors.Join(err1, err2, err3) != nil || at == 0 {
			continue
		}
		out = append(out, Credentials{Task: t, At: mem.Virt(at), User: mm != 0 && f&kernelThread == 0})
	}
	return out, nil
}
