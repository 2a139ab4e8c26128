package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf/btf"
)

// A Tamper changes a running machine in one way and can undo it. The benign
// ones change it the way an honest administrator does: a check that minds them
// is wrong.
type Tamper struct {
	Name   string
	Doc    string // one line: what is changed and what for an attacker would
	Check  string // the check meant to notice, by its name in reports; empty for benign ones
	Benign bool
	// Unmeasured says that the check cannot tell it from what is right, and ends as
	// not measured, which is no pass.
	Unmeasured bool

	Xen bool // the subject is the hypervisor of a machine that boots one
	// Kernel is one that has the subject, of [KernelNames], where the default has not.
	// Under Secure Boot it may refuse to make it: see [Options].Append.
	Kernel string

	apply func(context.Context, *change) error
}

// Tampers lists the corpus.
func Tampers() []Tamper {
	return slices.Concat(linuxTampers(), ofXen(xenTampers), ofXen(nestedTampers), ofXen(hostStateTampers))
}

func linuxTampers() []Tamper {
	return slices.Concat(textTampers, dynamicTampers, dataTampers, tableTampers, registerTampers, msrTampers, cpuTampers, pageTampers,
		pointerTampers, variableTampers, heapTampers, deferredTampers, tracepointTampers, hidingTampers, credentialTampers, securityTampers, kexecTampers, socketTampers, fileTampers, benignChanges)
}

var (
	// ErrUnknownTamper: no tamper has this name.
	ErrUnknownTamper = errors.New("unknown tamper")
	// ErrTampered: the tamper is in place already.
	ErrTampered = errors.New("already tampered")
	// ErrNoSubject: this kernel has nothing of the kind that the tamper changes.
	ErrNoSubject = errors.New("the guest's kernel has no such symbol")
	// ErrNotTampered: there is nothing to restore.
	ErrNotTampered = errors.New("not tampered")
)

// Tamper applies the tamper of that name.
func (m *Machine) Tamper(ctx context.Context, name string) error {
	at := slices.IndexFunc(Tampers(), func(t Tamper) bool { return t.Name == name })
	if at < 0 {
		return fmt.Errorf("%q: %w", name, ErrUnknownTamper)
	}
	if !m.Running() {
		return ErrNotRunning
	}
	if Tampers()[at].Xen && m.Xen == "" {
		return fmt.Errorf("%s: the machine boots no Xen: %w", name, ErrNoSubject)
	}
	journal := m.journal(name)
	if _, err := os.Stat(journal); err == nil {
		return fmt.Errorf("%s: %w", name, ErrTampered)
	}
	if err := os.MkdirAll(filepath.Dir(journal), 0o700); err != nil {
		return err
	}
	c := &change{machine: m, journal: journal}
	defer c.close()
	if err := Tampers()[at].apply(ctx, c); err != nil {
		err = fmt.Errorf("tamper %s: %w", name, err)
		if len(c.undo) == 0 {
			return err
		}
		return errors.Join(err, m.Restore(ctx, name)) // half a tamper is none
	}
	if len(c.undo) == 0 {
		return fmt.Errorf("tamper %s changed nothing", name)
	}
	return nil
}

// Restore undoes a tamper. What it cannot put back are traces outside its
// subject, such as a file's ctime.
func (m *Machine) Restore(ctx context.Context, name string) error {
	journal := m.journal(name)
	undo, err := readJournal(journal)
	if err != nil {
		return fmt.Errorf("restore %s: %w", name, err)
	}
	if !m.Running() {
		return ErrNotRunning
	}
	c := &change{machine: m, journal: journal}
	defer c.close()
	for _, step := range slices.Backward(undo) {
		if err := c.revert(ctx, step); err != nil {
			return fmt.Errorf("restore %s: %w", name, err)
		}
	}
	return os.Remove(journal)
}

func readJournal(path string) ([]undoStep, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrNotTampered
	}
	if err != nil {
		return nil, err
	}
	var undo []undoStep
	return undo, json.Unmarshal(data, &undo)
}

func (m *Machine) journal(name string) string {
	return filepath.Join(m.Dir, "tampers", filepath.Base(name)+".json")
}

// change is one tamper being applied. Each of its methods writes down how to
// undo a step before it takes it.
type change struct {
	machine *Machine
	journal string
	undo    []undoStep

	mem   *guestMemory
	table map[string]uint64 // kernel and module symbols
	types *btf.Spec
}

// undoStep is bytes or a register to put back, or a script to run in the guest.
type undoStep struct {
	Address  uint64 `json:"address,omitempty"` // kernel virtual
	Physical uint64 `json:"physical,omitempty"`
	Bytes    []byte `json:"bytes,omitempty"`

	// Process says that Address is one of QEMU's own memory.
	Process bool `json:"process,omitempty"`

	Register string `json:"register,omitempty"`
	CPU      int    `json:"cpu,omitempty"`
	Value    uint64 `json:"value,omitempty"`

	Script string `json:"script,omitempty"`
	Resume bool   `json:"resume,omitempty"` // let the machine run, which was stopped
}

// write stores data at a kernel virtual address, where other data must be.
func (c *change) write(ctx context.Context, address uint64, data []byte) error {
	mem, err := c.memory(ctx)
	if err != nil {
		return err
	}
	old := make([]byte, len(data))
	if err := mem.read(address, old); err != nil {
		return err
	}
	if string(old) == string(data) {
		return fmt.Errorf("memory at %#x already is %x", address, data)
	}
	return c.put(ctx, address, data)
}

// put stores data at a kernel virtual address, whatever is there.
func (c *change) put(ctx context.Context, address uint64, data []byte) error {
	mem, err := c.memory(ctx)
	if err != nil {
		return err
	}
	old := make([]byte, len(data))
	if err := mem.read(address, old); err != nil {
		return err
	}
	if err := c.record(undoStep{Address: address, Bytes: old}); err != nil {
		return err
	}
	return mem.write(address, data)
}

// writePhys stores one word at a guest-physical address.
func (c *change) writePhys(ctx context.Context, phys, value uint64) error {
	mem, err := c.memory(ctx)
	if err != nil {
		return err
	}
	old := make([]byte, 8)
	if err := mem.readPhys(phys, old); err != nil {
		return err
	}
	if string(old) == string(word(value)) {
		return fmt.Errorf("guest-physical memory at %#x already is %#x", phys, value)
	}
	if err := c.record(undoStep{Physical: phys, Bytes: old}); err != nil {
		return err
	}
	return mem.writePhys(phys, word(value))
}

// shell runs a script in the guest; undo is the script that reverts it.
func (c *change) shell(ctx context.Context, script, undo string) error {
	if err := c.record(undoStep{Script: undo}); err != nil {
		return err
	}
	_, err := c.machine.Shell(ctx, script)
	return err
}

func (c *change) record(step undoStep) error {
	c.undo = append(c.undo, step)
	data, err := json.Marshal(c.undo)
	if err != nil {
		return err
	}
	return os.WriteFile(c.journal, data, 0o600)
}

func (c *change) revert(ctx context.Context, step undoStep) error {
	switch {
	case step.Script != "":
		_, err := c.machine.Shell(ctx, step.Script)
		return err
	case step.Process:
		return c.machine.writeProcess(step.Address, step.Bytes)
	case step.Register != "":
		return c.writeRegister(ctx, step.CPU, step.Register, step.Value)
	case step.Resume:
		return c.machine.monitor(ctx, "cont")
	case step.Physical != 0:
		mem, err := c.machine.openPhysical()
		if err != nil {
			return err
		}
		return errors.Join(mem.writePhys(step.Physical, step.Bytes), mem.close())
	}
	mem, err := c.memory(ctx)
	if err != nil {
		return err
	}
	return mem.write(step.Address, step.Bytes)
}

func (c *change) memory(ctx context.Context) (*guestMemory, error) {
	if c.mem == nil {
		mem, err := c.machine.openMemory(ctx)
		if err != nil {
			return nil, err
		}
		c.mem = mem
	}
	return c.mem, nil
}

func (c *change) close() {
	if c.mem != nil {
		c.mem.close()
	}
}
