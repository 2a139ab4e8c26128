package check

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel/xen"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// xen.msrs: on every CPU SYSCALL leads to the stub of that CPU and SYSENTER to
// Xen's entry for it, with Xen's segments and the flags cleared that the entries
// rely on.
//
// Proves: what these registers held at one moment; what the stubs do is for
// xen.hypercalls. On AMD's processors they are a hardware-assisted domain's while the
// CPU runs it, and stay so until it runs something else: then what is proven is what
// Xen has kept of its own, which its code gives the CPU back before it runs a PV
// domain, the only kind that uses them. Trusts: the VMM for the values and for whether
// a domain runs; the image; and where the CPU is in Xen itself, Xen's memory for whose
// state is loaded. It cannot see a change that is put back before and made again after
// the scan.
const xenMSRsName = "xen.msrs"

func xenMSRsCheck() check {
	return check{name: xenMSRsName, plan: planXenMSRs, collect: collectXenMSRs, judge: judgeXenMSRs}
}

// xenMSRs are the registers of one CPU.
type xenMSRs struct {
	CPU         int     `json:"cpu"`
	STAR        address `json:"star"`
	LSTAR       address `json:"lstar"`
	CSTAR       address `json:"cstar"`
	FMASK       address `json:"fmask"`
	SysenterCS  address `json:"sysenter_cs"`
	SysenterESP address `json:"sysenter_esp"`
	SysenterEIP address `json:"sysenter_eip"`

	// Kept says that these are what Xen has kept of its own: those of a domain are in
	// the CPU. Loaded is that domain, by Xen, and Foreign says that it is none that
	// could run as the CPU does.
	Kept    bool   `json:"kept,omitempty"`
	Loaded  uint16 `json:"loaded,omitempty"`
	Foreign bool   `json:"foreign,omitempty"`
	Unread  string `json:"unread,omitempty"` // why none are known
}

// What Xen sets (x86_64/traps.c, subarch_percpu_traps_init): segments
// FLAT_RING3_CS32 and __HYPERVISOR_CS, the flags of XEN_SYSCALL_MASK (AC, VM, RF,
// NT, DF, IF, TF), and stubs of which that of 32-bit code is the second.
const (
	xenSTAR        = address(0xe023_e008) << 32
	xenFMASK       = address(0x0007_4700)
	xenCompatStub  = 32 // bytes from the first
	xenSysenterEIP = "sysenter_entry"
)

func collectXenMSRs(c *collector) (any, measure.Coverage, error) {
	return c.xenSystemCalls, measure.Coverage{Objects: int64(7 * len(c.xenSystemCalls))}, nil
}

func judgeXenMSRs(j *judging, raw json.RawMessage, out *measure.Check) error {
	var data []xenMSRs
	if err := decode(raw, &data); err != nil {
		return err
	}
	img, err := j.xenImage()
	if err != nil {
		return err
	}
	if len(data) == 0 {
		return errNotObserved
	}
	sysenter, ok := img.Symbols.Address(xenSysenterEIP)
	if !ok {
		return fmt.Errorf("%w: no %s", xen.ErrLayout, xenSysenterEIP)
	}
	taken := make(map[address]bool)
	var kept, unread []string
	for _, s := range data {
		if s.Unread != "" {
			unread = append(unread, fmt.Sprintf("the registers of CPU %d are not known: %s", s.CPU, s.Unread))
			continue
		}
		differs := func(register string, observed, expected any, explanation string) {
			out.Findings = append(out.Findings, measure.Finding{Symbol: fmt.Sprintf("%s of CPU %d", register, s.CPU),
				Observed: fmt.Sprint(observed), Expected: fmt.Sprint(expected), Explanation: explanation})
		}
		if s.Kept {
			kept = append(kept, fmt.Sprintf("CPU %d has those of domain %d", s.CPU, s.Loaded))
		}
		if s.Foreign {
			differs("guest", "it runs one", "none", fmt.Sprintf("the CPU runs a guest, while by Xen it runs domain %d, which is not hardware-assisted", s.Loaded))
		}
		if !isStartOfStub(mem.Virt(s.LSTAR)) || taken[s.LSTAR] {
			differs("LSTAR", s.LSTAR, "the stub of the CPU", "SYSCALL does not lead to the stub that Xen has for the CPU")
		}
		taken[s.LSTAR] = true
		if want := s.LSTAR + xenCompatStub; s.CSTAR != want {
			differs("CSTAR", s.CSTAR, want, "SYSCALL in 32-bit code does not lead to the stub that Xen has for it")
		}
		if s.STAR != xenSTAR {
			differs("STAR", s.STAR, xenSTAR, "SYSCALL runs with other segments than Xen's")
		}
		if s.FMASK&xenFMASK != xenFMASK {
			differs("FMASK", s.FMASK, xenFMASK, "SYSCALL enters with flags that Xen has cleared")
		}
		if s.SysenterCS == 0 && s.SysenterEIP == 0 {
			continue // AMD's have none in long mode
		}
		if s.SysenterCS != xenCS || s.SysenterEIP != address(sysenter) {
			differs("SYSENTER", fmt.Sprintf("%v:%v (%s)", s.SysenterCS, s.SysenterEIP, img.Name(mem.Virt(s.SysenterEIP))),
				fmt.Sprintf("%v:%v (%s)", address(xenCS), address(sysenter), xenSysenterEIP), "SYSENTER does not enter Xen where it has its entry for it")
		}
		if at := mem.Virt(s.SysenterESP); at < xen.DirectMap || at >= xen.DirectMapEnd {
			differs("SYSENTER_ESP", s.SysenterESP, "a stack of Xen's", "SYSENTER runs on a stack that is not Xen's")
		}
	}
	if len(unread) > 0 {
		return errors.New(strings.Join(unread, "; "))
	}
	if len(kept) > 0 {
		out.Reason = strings.Join(kept, ", ") + ": of such what Xen has kept of its own is judged, which is given back before a PV domain runs"
	}
	return nil
}

// isStartOfStub reports whether an address is where the stub of a CPU starts.
func isStartOfStub(at mem.Virt) bool {
	page := at &^ (mem.PageSize - 1)
	return at >= xen.StubsFirst && at <= xen.StubsLast && at-page == xen.StubSlot(page)
}
