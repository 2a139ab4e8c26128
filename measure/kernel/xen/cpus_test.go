package xen_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/measure/kernel/xen"
	"github.com/plumbline-sec/plumbline/measure/kernel/xen/xentest"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

func TestCPUs(t *testing.T) {
	m := xentest.RunHVM()
	p, err := xen.NewProfile(m, m.CPUs)
	if err != nil {
		t.Fatal(err)
	}
	own := xentest.Boot().MSRs[0]
	want := []xen.CPU{{Interrupts: xentest.Base + xentest.IDT, HostState: xentest.HostState,
		Kept: mem.SystemCalls{STAR: own.STAR, LSTAR: own.LSTAR, CSTAR: own.CSTAR, FMASK: own.FMASK}, Loaded: 1, Assisted: true}}
	got, err := p.CPUs()
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	m.Load(false)
	want[0].Loaded, want[0].Assisted = 0, false
	if got, err = p.CPUs(); !cmp.Equal(want, got) || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
	m.Put64(xentest.VCPU+xentest.CPUDomain, 0xdead)
	m.Load(true)
	if got, err = p.CPUs(); !errors.Is(err, xen.ErrLayout) || got != nil {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestBehindVMRUN(t *testing.T) {
	if at, err := image(t).BehindVMRUN(); at != xentest.BehindVMRUN || err != nil {
		t.Errorf("%v, %v", at, err)
	}
}
