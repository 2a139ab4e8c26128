package check

import (
	"errors"
	"fmt"
	"slices"

	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// maxMade bounds the accounts of code that the target made.
const maxMade = 1 << 16

// madeCode lists where code starts that the kernel made at run time, by its own
// accounts: BPF programs, trampolines and dispatchers (bpf_kallsyms, a list of
// struct bpf_ksym) and ftrace's trampolines (ftrace_ops_trampoline_list, since
// 5.8), and functions of tables of operations that are BPF programs. They change
// while they are read, so each is read several times. One that cannot be read to its
// end is an error, with what was found: the rest is not told from what nobody made.
func (c *collector) madeCode() ([]madeFact, error) {
	programs, err1 := attempts(func() ([]madeFact, error) { return c.starts("bpf", "bpf_kallsyms", "bpf_ksym", "lnode", "start") })
	tables, err2 := attempts(c.structOpsFunctions)
	tracers, err3 := attempts(func() ([]madeFact, error) {
		return c.starts("ftrace trampoline", "ftrace_ops_trampoline_list", "ftrace_ops", "list", "trampoline")
	})
	return slices.Concat(programs, tables, tracers), errors.Join(err1, err2, err3)
}

// attempts reads until there is no error, a few times at most.
func attempts(read func() ([]madeFact, error)) (out []madeFact, err error) {
	for range moduleAttempts {
		if out, err = read(); err == nil {
			break
		}
	}
	return out, err
}

// starts reads one member of each entry of a list, none of a kernel that has no
// such list.
func (c *collector) starts(kind, list, entry, link, member string) ([]madeFact, error) {
	head, ok := c.profile.Symbol(list)
	at, err1 := c.profile.Types.Offset(entry, link)
	value, err2 := c.profile.Types.Offset(entry, member)
	if !ok || err1 != nil || err2 != nil {
		return nil, nil
	}
	entries, err := kernel.List(c.space, head, maxMade)
	var out []madeFact
	for _, e := range entries {
		start, err1 := c.space.U64(e - mem.Virt(at) + mem.Virt(value))
		if err1 != nil {
			err = errors.Join(err, err1)
		} else if start != 0 {
			out = append(out, madeFact{kind, address(start)})
		}
	}
	if err != nil {
		return out, fmt.Errorf("%s: %w", list, err)
	}
	return out, nil
}
