package check

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// structOpsName names the code through which a table of operations calls BPF
// programs.
const structOpsName = "bpf_struct_ops"

// structOps adds the memory of that code to the accounts of BPF's. It is of the
// same form as the trampolines in front of functions, several behind each other.
// Since 6.12 (struct bpf_struct_ops_map, ksyms) each is on bpf_kallsyms as well:
// those are taken off again.
func (c *collector) structOps(d *dynamicData) error {
	tables, err := c.profile.StructOps()
	var pages []address
	for _, t := range tables {
		for _, page := range t.Pages {
			pages = append(pages, address(page))
		}
	}
	slices.Sort(pages)
	d.Images = slices.DeleteFunc(d.Images, func(i imageFact) bool {
		n, exact := slices.BinarySearch(pages, i.Start)
		if !exact {
			n--
		}
		return i.Trampoline && n >= 0 && i.End <= pages[n]+mem.PageSize
	})
	if len(d.Images)+len(pages) > maxImages {
		return fmt.Errorf("over %d pieces of code", maxImages)
	}
	for _, page := range pages {
		d.Images = append(d.Images, imageFact{structOpsName, page, page + mem.PageSize, true})
	}
	return err
}

// prologues are how functions of the BPF compiler begin: ENDBR64, or PUSH %RBP and
// MOV %RSP, %RBP (emit_prologue and arch_prepare_bpf_trampoline,
// arch/x86/net/bpf_jit_comp.c).
var prologues = [][]byte{{0xf3, 0x0f, 0x1e, 0xfa}, {0x55, 0x48, 0x89, 0xe5}}

// structOpsFunctions lists where the functions of such tables start, by the tables
// that the kernel calls through: places in the pages of the table, that begin as
// functions do.
func (c *collector) structOpsFunctions() ([]madeFact, error) {
	tables, err := c.profile.StructOps()
	var out []madeFact
	for _, t := range tables {
		for _, f := range t.Functions {
			var code [4]byte
			if len(out) == maxMade || c.space.Read(code[:], f) != nil {
				continue
			}
			for _, p := range prologues {
				if bytes.Equal(code[:], p) {
					out = append(out, madeFact{structOpsName, address(f)})
				}
			}
		}
	}
	return out, err
}
