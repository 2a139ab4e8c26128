package check

import (
	"errors"
	"fmt"
	"slices"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel/xen"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// A CPU that runs a hardware-assisted domain has the domain's registers. With SVM the
// processor keeps Xen's own in a page of memory meanwhile, by which all checks go
// then ([mem.Virtualization]). It is Xen's memory that says which page is reserved
// for that.

// cpuOfXen is what Xen has for the CPU with an interrupt table.
func cpuOfXen(all []xen.CPU, table mem.Virt) (xen.CPU, error) {
	i := slices.IndexFunc(all, func(x xen.CPU) bool { return x.Interrupts == table })
	if i < 0 {
		return xen.CPU{}, fmt.Errorf("no CPU of Xen's has its interrupt table at %v", table)
	}
	return all[i], nil
}

// hostStateOf adds where a CPU keeps Xen's registers while it runs a domain.
func (c *collector) hostStateOf(r *mem.Registers, f *xenCPU) {
	if r.Virtualization == nil {
		return
	}
	f.HostState, f.InDomain = r.Virtualization.HostState, r.InGuest()
	if f.InDomain {
		f.RIP = address(r.RIP)
	}
	all, err := c.xen.CPUs()
	if err == nil {
		var own xen.CPU
		own, err = cpuOfXen(all, r.IDT.Base)
		f.Reserved = own.HostState
	}
	if err != nil {
		f.Unknown = err.Error()
	}
}

// hostState finds that a CPU keeps Xen's registers while it runs a domain, or goes on
// after it, elsewhere than where Xen has it.
func (f *xenCPU) hostState(j *judging) ([]measure.Finding, error) {
	var out []measure.Finding
	if f.Unknown == "" && f.HostState != f.Reserved {
		out = append(out, measure.Finding{Symbol: fmt.Sprintf("VM_HSAVE_PA of CPU %d", f.CPU), Observed: fmt.Sprint(f.HostState), Expected: fmt.Sprint(f.Reserved),
			Explanation: "the processor keeps Xen's registers, while it runs a domain, elsewhere than where Xen has reserved memory for it"})
	}
	var err error
	if f.Unknown != "" {
		err = fmt.Errorf("CPU %d: %s", f.CPU, f.Unknown)
	}
	if !f.InDomain {
		return out, err
	}
	img, imageErr := j.xenImage()
	if imageErr != nil {
		return out, errors.Join(err, imageErr)
	}
	want, codeErr := img.BehindVMRUN()
	if codeErr == nil && mem.Virt(f.RIP) != want {
		out = append(out, measure.Finding{Symbol: fmt.Sprintf("RIP of CPU %d", f.CPU), Observed: fmt.Sprintf("%v (%s)", f.RIP, img.Name(mem.Virt(f.RIP))),
			Expected: fmt.Sprintf("%v (%s)", want, img.Name(want)), Explanation: "the CPU runs a domain, and goes on elsewhere than behind the instruction by which Xen enters one"})
	}
	return out, errors.Join(err, codeErr)
}
