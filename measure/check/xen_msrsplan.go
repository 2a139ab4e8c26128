package check

import (
	"errors"
	"fmt"
	"slices"

	"github.com/plumbline-sec/plumbline/measure/kernel/xen"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// planXenMSRs reads the registers of system calls. Where those of a CPU are not
// Xen's, they may be a domain's: whether they are is told by the state of the CPU and
// what Xen has in memory for it, which hold together at a stop only.
func planXenMSRs(c *collector) error {
	source, ok := c.machine.(systemCallSource)
	if !ok {
		return errNoSystemCalls
	}
	calls, err := source.SystemCalls(c.ctx)
	if clock, ok := c.machine.(pauseClock); ok {
		c.stopped(clock.PausedFor())
	}
	if err != nil {
		return err
	}
	for _, s := range calls {
		c.xenSystemCalls = append(c.xenSystemCalls, xenMSRsOf(s))
	}
	for range msrAttempts {
		if !slices.ContainsFunc(c.xenSystemCalls, func(f xenMSRs) bool { return f.Unread != "" || !f.asXen() && !f.Kept }) {
			break
		}
		settled, err := c.xenCallsOfOneStop(source)
		if err != nil || settled {
			return err
		}
	}
	return nil
}

func xenMSRsOf(s mem.SystemCalls) xenMSRs {
	return xenMSRs{CPU: s.CPU, STAR: address(s.STAR), LSTAR: address(s.LSTAR), CSTAR: address(s.CSTAR), FMASK: address(s.FMASK),
		SysenterCS: address(s.SysenterCS), SysenterESP: address(s.SysenterESP), SysenterEIP: address(s.SysenterEIP)}
}

// asXen reports whether the registers look like Xen's own.
func (f *xenMSRs) asXen() bool {
	return isStartOfStub(mem.Virt(f.LSTAR)) && f.CSTAR == f.LSTAR+xenCompatStub && f.STAR == xenSTAR && f.FMASK&xenFMASK == xenFMASK
}

// xenCallsOfOneStop reads the registers, and what Xen has for the CPUs, while the
// machine stands still. settled says that of each CPU all is known.
func (c *collector) xenCallsOfOneStop(source systemCallSource) (settled bool, err error) {
	resume, err := c.machine.Pause(c.ctx)
	if err != nil {
		return false, err
	}
	defer func() {
		err = errors.Join(err, resume())
		if clock, ok := c.machine.(pauseClock); ok {
			c.stopped(clock.PausedFor())
		}
	}()
	calls, err1 := source.SystemCalls(c.ctx)
	registers, err2 := c.machine.Registers(c.ctx)
	if err := errors.Join(err1, err2); err != nil {
		return false, err
	}
	cpus, cpusErr := c.xen.CPUs()
	c.xenSystemCalls, settled = nil, true
	for _, s := range calls {
		f := xenMSRsOf(s)
		i := slices.IndexFunc(registers, func(r mem.Registers) bool { return r.CPU == s.CPU })
		switch {
		case i < 0:
			return false, fmt.Errorf("the registers of CPU %d are not shown", s.CPU)
		case registers[i].Unread() != "":
			f.Unread = registers[i].Unread()
		case registers[i].InGuest() || !f.asXen() && registers[i].CPL == 0:
			f.loaded(&registers[i], cpus, cpusErr)
		}
		settled = settled && f.Unread == ""
		c.xenSystemCalls = append(c.xenSystemCalls, f)
	}
	return settled, nil
}

// loaded takes what Xen has kept of its own, where a domain's registers are in the
// CPU. PV domains run with a privilege level other than 0, and use Xen's.
func (f *xenMSRs) loaded(r *mem.Registers, cpus []xen.CPU, err error) {
	var own xen.CPU
	if err == nil {
		own, err = cpuOfXen(cpus, r.IDT.Base)
	}
	if err != nil {
		if r.InGuest() {
			f.Unread = "what Xen has kept of its own is not known: " + err.Error()
		}
		return // else they are judged as they are
	}
	switch {
	case !r.InGuest() && !own.Assisted: // they are judged as they are
	case own.Kept == mem.SystemCalls{}:
		f.Unread = fmt.Sprintf("they are those of domain %d, and what Xen has kept of its own is not where it is on AMD's processors", own.Loaded)
	default:
		cpu := f.CPU
		*f = xenMSRsOf(own.Kept)
		f.CPU, f.Kept, f.Loaded, f.Foreign = cpu, true, own.Loaded, !own.Assisted
	}
}
