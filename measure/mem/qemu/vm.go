package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/plumbline-sec/plumbline/internal/qmp"
	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// VM is a running virtual machine. It holds the monitor until it is closed,
// and QEMU serves one monitor client at a time: keep it no longer than a scan.
type VM struct {
	socket string
	client *qmp.Client
	ram    *RAM
	target measure.Target
	paused time.Duration // the last pause
	disks  []*os.File    // what QEMU keeps disks in
	places *Places       // nil if nothing is remembered
	atStop func() func() // see AtStops
}

// Open connects to the QMP socket at path and maps the machine's RAM.
func Open(ctx context.Context, path string) (*VM, error) {
	client, err := qmp.Dial(ctx, path)
	if err != nil {
		return nil, err
	}
	vm := &VM{socket: path, client: client, target: measure.Target{Kind: "vm", Path: path}}
	if err := vm.describe(ctx); err != nil {
		client.Close()
		return nil, err
	}
	if vm.ram, err = openRAM(ctx, client); err != nil {
		client.Close()
		return nil, err
	}
	vm.disks = openDisks(client.PID())
	return vm, nil
}

func (vm *VM) describe(ctx context.Context) error {
	var name struct {
		Name string `json:"name"`
	}
	if err := vm.client.Execute(ctx, "query-name", nil, &name); err != nil {
		return err
	}
	var uuid struct {
		UUID string `json:"UUID"`
	}
	if err := vm.client.Execute(ctx, "query-uuid", nil, &uuid); err != nil {
		return err
	}
	vm.target.Name = name.Name
	if uuid.UUID != "00000000-0000-0000-0000-000000000000" {
		vm.target.UUID = uuid.UUID
	}
	return nil
}

// Target names the machine.
func (vm *VM) Target() measure.Target { return vm.target }

// PID is the QEMU process.
func (vm *VM) PID() int { return vm.client.PID() }

// Memory reads the machine's RAM.
func (vm *VM) Memory() mem.Reader { return vm.ram }

// RAM is Memory with what only this source offers.
func (vm *VM) RAM() *RAM { return vm.ram }

// Registers reads the registers of all virtual CPUs, running or not. If one may run
// guests of its own, the machine is stopped for it: see [mem.Virtualization].
func (vm *VM) Registers(ctx context.Context) ([]mem.Registers, error) {
	vm.paused = 0
	shown, err := vm.outside(ctx)
	if err != nil {
		return nil, err
	}
	if !virtualizing(shown) {
		for i := range shown {
			if shown[i].SMM {
				shown[i] = unread(shown[i].CPU, mem.Virtualization{Unread: inManagement}).regs
			}
		}
		return shown, nil
	}
	all, err := vm.looks(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]mem.Registers, len(all))
	for i := range all {
		out[i] = all[i].regs
	}
	return out, nil
}

// showRegisters is the line of the human monitor that shows all CPUs.
const showRegisters = "info registers -a"

// shown is what the monitor shows: of a CPU that runs a guest, that guest's.
func (vm *VM) shown(ctx context.Context) ([]mem.Registers, error) {
	text, err := vm.client.HMP(ctx, showRegisters)
	if err != nil {
		return nil, fmt.Errorf("read registers: %w", err)
	}
	return ParseRegisters(text)
}

// Close hangs up and unmaps.
func (vm *VM) Close() error {
	for _, f := range vm.disks {
		f.Close()
	}
	return errors.Join(vm.client.Close(), vm.ram.Close())
}
