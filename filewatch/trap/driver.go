package trap

import "errors"

// Errors that say why a guest cannot be watched.
var (
	// ErrNotSupported: the guest's kernel lacks a function or a field without
	// which operations cannot be told.
	ErrNotSupported = errors.New("guest kernel not supported")
	// ErrNoPlugin: the virtual machine was started without the trap plugin.
	ErrNoPlugin = errors.New("the virtual machine runs without the trap plugin")
)

// Symbols gives addresses of the running guest's kernel, KASLR included.
// Per-CPU variables are given as the kernel's symbol table has them.
type Symbols interface {
	Address(name string) (addr uint64, ok bool)
}

// Types describes the guest kernel's structures, as its BTF does.
type Types interface {
	// Field is the offset in bytes of a field of a structure. The path walks
	// into embedded structures with dots ("f_path.dentry"); members of
	// anonymous structures and unions count as the outer structure's own.
	Field(structure, path string) (offset uint64, ok bool)
	// Param is the position, from 0, of the parameter of that name.
	Param(function, name string) (index int, ok bool)
}

// Registers are the x86-64 registers of a CPU stopped at a hook.
type Registers struct {
	PC, SP, AX uint64
	// Args are the first six integer arguments at the entry of a function:
	// RDI, RSI, RDX, RCX, R8, R9 (System V AMD64 ABI 3.2.3).
	Args [6]uint64
	// GSBase is the base of the CPU's per-CPU area while in the kernel.
	GSBase uint64
	CR3    uint64
	CR4    uint64
}

// Memory reads guest virtual memory as the stopped CPU sees it.
type Memory interface {
	// Read fills p from addr, or says false and leaves p undefined.
	Read(addr uint64, p []byte) bool
}

// Action is what becomes of a stop.
type Action uint8

// The actions a driver can ask for.
const (
	Drop  Action = iota // nothing to report
	Emit                // the record is complete
	Await               // go on at the return of the function: call Leave
	Check               // report only if the operation is refused here
)

// Driver knows the kernel of one guest OS family. Its methods are called by one
// goroutine at a time.
type Driver interface {
	// Hooks are the addresses to stop at. A hook's number is its index.
	Hooks() []uint64
	// Enter decodes a stop at a hook. With Emit the record is complete; with
	// Await it is kept and given to Leave.
	Enter(hook int, regs *Registers, mem Memory, rec *Record) Action
	// Leave completes the record when the function returns: regs are those at
	// the return, entry those at the entry. False drops the record: the
	// operation did not happen.
	Leave(hook int, entry, regs *Registers, mem Memory, rec *Record) bool
	// Task identifies what runs on the stopped CPU, to tell the return of one
	// task's call from another's. 0 when it cannot be told.
	Task(regs *Registers, mem Memory) uint64
	// Blind names what this kernel offers no hook for, in words.
	Blind() []string
}
