package kernel

import (
	"fmt"
	"strings"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// notFound is an [ErrNoKernel] that says what was looked at: what each CPU was
// doing, and what its tables have where a kernel's image would be. Without that
// nobody can tell afterwards a machine that was starting from one that was hidden.
type notFound struct {
	seen []string // by CPU
	more int      // CPUs that are not told of
}

// maxSeen bounds how many CPUs are told of.
const maxSeen = 4

// add tells what a CPU showed that has no kernel.
func (n *notFound) add(r *mem.Registers, errs ...error) {
	if len(n.seen) == maxSeen {
		n.more++
		return
	}
	tables := make([]string, len(errs))
	for i, err := range errs {
		tables[i] = err.Error()
	}
	n.seen = append(n.seen, fmt.Sprintf("CPU %d (RIP %#x, CPL %d, CR0 %#x, CR3 %#x, CR4 %#x, EFER %#x, IDT %v): %s",
		r.CPU, r.RIP, r.CPL, r.CR0, r.CR3, r.CR4, r.EFER, r.IDT.Base, strings.Join(tables, ", ")))
}

func (n *notFound) Error() string {
	text := ErrNoKernel.Error() + ": " + strings.Join(n.seen, "; ")
	if n.more > 0 {
		text += fmt.Sprintf("; and %d more", n.more)
	}
	return text
}

func (n *notFound) Unwrap() error { return ErrNoKernel }
