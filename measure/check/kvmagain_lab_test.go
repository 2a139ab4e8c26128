//go:build lab

package check_test

import (
	"context"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/check"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/mem/qemu"
)

// startingKVM is a machine whose kvm_amd is being loaded at its first pauses.
type startingKVM struct {
	*qemu.VM
	state    mem.Phys // of its struct module
	starting int      // pauses
	now      bool     // it is
	pauses   int
}

func (m *startingKVM) Memory() mem.Reader { return startingMemory{m.VM.Memory(), m} }

func (m *startingKVM) Pause(ctx context.Context) (func() error, error) {
	resume, err := m.VM.Pause(ctx)
	m.pauses++
	m.now = m.pauses <= m.starting
	return func() error { m.now = false; return resume() }, err
}

type startingMemory struct {
	mem.Reader
	of *startingKVM
}

func (r startingMemory) ReadPhys(p []byte, at mem.Phys) error {
	err := r.Reader.ReadPhys(p, at)
	if state := r.of.state; r.of.now && at <= state && uint64(state-at)+4 <= uint64(len(p)) {
		binary.LittleEndian.PutUint32(p[state-at:], 1) // MODULE_STATE_COMING
	}
	return err
}

// TestTakesKVMAgain: at the pause of a scan kvm_amd was being loaded, and right after
// it it is live: its tables are read once more. Where it never is they are not measured.
func TestTakesKVMAgain(t *testing.T) {
	m := sharedMachine(t)
	s := newScanner(t, m)
	vm, err := qemu.Open(t.Context(), m.QMP)
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Close()
	state := stateOfModule(t, vm, "kvm_amd")
	checks := []string{"kvm.ops"}
	for starting, want := range []measure.Outcome{measure.Pass, measure.Pass, measure.NotMeasured} {
		target := &startingKVM{VM: vm, state: state, starting: starting * starting * starting * starting}
		result, err := check.Scan(t.Context(), target, &check.Options{Profiles: &s.profiles, Checks: checks})
		if err != nil {
			t.Fatal(err)
		}
		c := find(t, judge(t, result.Observations, &check.References{Images: s, Modules: s, Pages: result.Pages, Checks: checks}), "kvm.ops")
		if c.Outcome != want || want == measure.NotMeasured && !strings.Contains(c.Reason, "being loaded") {
			t.Errorf("being loaded at %d pauses: %s %s %+v", target.starting, c.Outcome, c.Reason, c.Findings)
		}
		if starting < 2 && target.pauses != starting+1 {
			t.Errorf("being loaded at %d pauses: %d pauses", target.starting, target.pauses)
		}
	}
}

// stateOfModule returns where a module's struct module has its state.
func stateOfModule(t *testing.T, vm *qemu.VM, name string) mem.Phys {
	t.Helper()
	profile := profileOf(t, vm)
	modules, err := profile.Modules()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(modules, func(m kernel.LoadedModule) bool { return m.Name == name })
	offset, err := profile.Types.Offset("module", "state")
	if err != nil || i < 0 {
		t.Fatalf("%s: %v", name, err)
	}
	at, err := profile.Space.Phys(modules[i].At + mem.Virt(offset))
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// profileOf makes the profile of a machine's kernel.
func profileOf(t *testing.T, vm *qemu.VM) *kernel.Profile {
	t.Helper()
	registers, err := vm.Registers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	profile, err := (&kernel.Cache{}).Profile(vm.Memory(), registers)
	if err != nil {
		t.Fatal(err)
	}
	return profile
}
