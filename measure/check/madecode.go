package check

import (
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// maxMade bounds the accounts of code that the target made.
const maxMade = 1 << 16

// madeCode lists where code starts that the kernel made at run time, by its own
// accounts: BPF programs, trampolines and dispatchers (bpf_kallsyms, a list of
// struct bpf_ksym) and ftrace's trampolines (ftrace_ops_trampoline_list, since
// 5.8), and functions of tables of operations that are BPF programs. What cannot be
// read is left out: pointers to it are then findings, not
// passes.
func (c *collector) madeCode() []madeFact {
	out := c.starts("bpf", "bpf_kallsyms", "bpf_ksym", "lnode", "start")
	out = append(out, c.structOpsFunctions()...)
	return append(out, c.starts("ftrace trampoline", "ftrace_ops_trampoline_list", "ftrace_ops", "list", "trampoline")...)
}

// starts reads one member of each entry of a list.
func (c *collector) starts(kind, list, entry, link, member string) []madeFact {
	head, ok := c.profile.Symbol(list)
	at, err1 := c.profile.Types.Offset(entry, link)
	value, err2 := c.profile.Types.Offset(entry, member)
	if !ok || err1 != nil || err2 != nil {
		return nil
	}
	entries, _ := kernel.List(c.space, head, maxMade)
	var out []madeFact
	for _, e := range entries {
		if start, err := c.space.U64(e - mem.Virt(at) + mem.Virt(value)); err == nil && start != 0 {
			out = append(out, madeFact{kind, address(start)})
		}
	}
	return out
}
