package lab

import (
	"context"
	"errors"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/plumbline-sec/plumbline/internal/gdbstub"
	"github.com/plumbline-sec/plumbline/internal/qmp"
)

// QEMU 7.2 reads code in order to translate it before others can see that it does
// (accel/tcg/translate-all.c, tb_gen_code and tb_link_page). A CPU whose thread has
// to wait for a processor just then keeps what another CPU has changed meanwhile: a
// kernel that patches its text is back at a breakpoint that is no longer there, for
// ever (kprobe_int3_handler finds none in memory and has the instruction tried
// again), and with it all who wait for that CPU. QEMU 8.1 locks pages before it
// translates, which by its log ends this; that was not tried.

// stale says that the kernel died while it booted of such a breakpoint: it has none of
// its own in what CPUs run (exc_int3 of Linux, arch/x86/kernel/traps.c, dies then). It
// happened once in some sixty starts of Debian's 7.2, before anything looked at the
// machine.
func (e *StartError) stale() bool { return strings.Contains(e.Serial, "Oops: int3:") }

// staleAfter is how long a guest that runs may give no answer before its code is
// translated anew.
const staleAfter = 30 * time.Second

// Samples of where CPUs are.
const (
	staleSamples = 40
	stalePause   = 20 * time.Millisecond
)

// freshen has QEMU translate anew the code that CPUs are at which do nothing but run
// their kernel. Where that is not stale it changes nothing.
func (m *Machine) freshen(ctx context.Context) error {
	monitor, err := qmp.Dial(ctx, m.LabQMP)
	if err != nil {
		return err
	}
	defer monitor.Close()
	return m.freshenBy(ctx, monitor)
}

func (m *Machine) freshenBy(ctx context.Context, monitor *qmp.Client) error {
	var status struct{ Running bool }
	if err := monitor.Execute(ctx, "query-status", nil, &status); err != nil || !status.Running || m.Accel != accelTCG {
		return err
	}
	places := make(map[int]map[uint64]bool)
	for range staleSamples {
		text, err := monitor.HMP(ctx, "info registers -a")
		if err != nil {
			return err
		}
		sampleCPUs(text, places)
		time.Sleep(stalePause)
	}
	var stub *gdbstub.Client
	var errs []error
	for cpu, addresses := range places {
		for at := range addresses {
			if stub == nil {
				var err error
				if stub, err = gdbstub.Dial(ctx, m.GDB); err != nil {
					return err
				}
			}
			errs = append(errs, stub.Rewrite(cpu, at, 1))
		}
	}
	if stub != nil {
		errs = append(errs, stub.Close())
	}
	return errors.Join(errs...)
}

var cpuState = regexp.MustCompile(`(?s)CPU#(\d+)\s.*?\bRIP=([0-9a-f]{16}) .*?\bCPL=(\d) .*?\bHLT=(\d)`)

// sampleCPUs adds where CPUs are, by what the monitor says of their registers. One
// that was seen idle, or outside the kernel, has no places.
func sampleCPUs(text string, places map[int]map[uint64]bool) {
	const kernel = 1 << 63
	for _, match := range cpuState.FindAllStringSubmatch(text, -1) {
		cpu, err1 := strconv.Atoi(match[1])
		at, err2 := strconv.ParseUint(match[2], 16, 64)
		known, sampled := places[cpu]
		switch {
		case err1 != nil || err2 != nil || sampled && known == nil:
		case at < kernel || match[3] != "0" || match[4] != "0":
			places[cpu] = nil
		case !sampled:
			places[cpu] = map[uint64]bool{at: true}
		default:
			known[at] = true
		}
	}
}
