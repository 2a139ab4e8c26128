package check

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// structOpsName names the code through which a table of operations calls BPF
// programs.
const structOpsName = "bpf_struct_ops"

// functionFact is where a function starts in that code: one that a table goes by,
// or that is on bpf_kallsyms. Since 6.12 each is both (struct bpf_struct_ops_map,
// ksyms; the list has them last, bpf_struct_ops_map_update_elem).
type functionFact struct {
	At     address `json:"at"`
	Listed bool    `json:"listed,omitempty"`
}

func (f functionFact) compare(o functionFact) int { return cmp.Compare(f.At, o.At) }

// structOps adds the memory of that code to the accounts of BPF's. It is of the
// same form as the trampolines in front of functions, several behind each other.
func (c *collector) structOps(d *dynamicData) error {
	tables, err := c.profile.StructOps()
	return errors.Join(err, d.addTables(tables))
}

// addTables adds the pages of tables to the images, and takes what lies in them off
// these: they are functions of the tables.
func (d *dynamicData) addTables(tables []kernel.StructOps) error {
	var pages []address
	starts := make(map[address]bool) // whether it is listed
	for _, t := range tables {
		for _, page := range t.Pages {
			pages = append(pages, address(page))
		}
		for _, f := range t.Functions {
			if starts[address(f)] = false; len(starts) > maxImages {
				return fmt.Errorf("over %d functions of tables of operations", maxImages)
			}
		}
	}
	slices.Sort(pages)
	pages = slices.Compact(pages)
	d.Images = slices.DeleteFunc(d.Images, func(i imageFact) bool {
		n, exact := slices.BinarySearch(pages, i.Start)
		if !exact {
			n--
		}
		in := i.Trampoline && n >= 0 && i.End <= pages[n]+mem.PageSize
		if in {
			starts[i.Start] = true
		}
		return in
	})
	if len(d.Images)+len(pages) > maxImages {
		return fmt.Errorf("over %d pieces of code", maxImages)
	}
	for _, page := range pages {
		d.Images = append(d.Images, imageFact{structOpsName, page, page + mem.PageSize, true})
	}
	for _, at := range slices.Sorted(maps.Keys(starts)) {
		d.Functions = append(d.Functions, functionFact{at, starts[at]})
	}
	return nil
}

// functionsIn are those from one address to before another.
func (d *dynamicData) functionsIn(from, to address) []functionFact {
	first, _ := slices.BinarySearchFunc(d.Functions, functionFact{At: from}, functionFact.compare)
	over, _ := slices.BinarySearchFunc(d.Functions, functionFact{At: to}, functionFact.compare)
	return d.Functions[first:max(first, over)]
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
