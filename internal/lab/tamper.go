package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A Tamper changes a running machine in one way and can undo it. The benign
// ones change it the way an honest administrator does: a check that minds them
// is wrong.
type Tamper struct {
	Name   string
	Doc    string // one line: what is changed and what for an attacker would
	Check  string // the check meant to notice, by its name in reports; empty for benign ones
	Benign bool

	apply func(context.Context, *change) error
}

// Tampers lists the corpus.
func Tampers() []Tamper {
	return slices.Concat(textTampers, tableTampers, pointerTampers, fileTampers, benignChanges)
}

var (
	// ErrUnknownTamper: no tamper has this name.
	ErrUnknownTamper = errors.New("unknown tamper")
	// ErrTampered: the tamper is in place already.
	ErrTampered = errors.New("already tampered")
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

	mem *guestMemory
}

// undoStep is either bytes to put back or a script to run in the guest.
type undoStep struct {
	Address uint64 `json:"address,omitempty"`
	Bytes   []byte `json:"bytes,omitempty"`
	Script  string `json:"script,omitempty"`
}

// write stores data at a kernel virtual address.
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
	if err := c.record(undoStep{Address: address, Bytes: old}); err != nil {
		return err
	}
	return mem.write(address, data)
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
	if step.Script != "" {
		_, err := c.machine.Shell(ctx, step.Script)
		return err
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

// symbols returns the addresses of kernel or module symbols, from the guest's
// own /proc/kallsyms: the lab may ask the guest, the product never does. The
// guest picks the lines, because its way out is slow.
func (c *change) symbols(ctx context.Context, names ...string) ([]uint64, error) {
	out, err := c.machine.Shell(ctx, "grep -E ' ("+strings.Join(names, "|")+")([[:space:]]|$)' /proc/kallsyms")
	if err != nil {
		return nil, fmt.Errorf("look up %v: %w", names, err)
	}
	found := make(map[string]uint64)
	for line := range strings.Lines(out) {
		var address uint64
		var kind, symbol string
		if n, _ := fmt.Sscanf(line, "%x %s %s", &address, &kind, &symbol); n == 3 && found[symbol] == 0 {
			found[symbol] = address
		}
	}
	addresses := make([]uint64, len(names))
	for i, name := range names {
		if addresses[i] = found[name]; addresses[i] == 0 {
			return nil, fmt.Errorf("the guest's kernel has no symbol %s", name)
		}
	}
	return addresses, nil
}

func (c *change) close() {
	if c.mem != nil {
		c.mem.close()
	}
}
