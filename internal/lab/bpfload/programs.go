package main

import (
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

var returnsZero = asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}

var returnsOne = asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}

var passes = asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()} // XDP_PASS

// readsMemory calls helpers and keeps what they gave on its stack.
var readsMemory = asm.Instructions{
	asm.FnGetCurrentPidTgid.Call(),
	asm.StoreMem(asm.RFP, -8, asm.R0, asm.DWord),
	asm.FnKtimeGetNs.Call(),
	asm.LoadMem(asm.R1, asm.RFP, -8, asm.DWord),
	asm.Add.Reg(asm.R0, asm.R1),
	asm.RSh.Imm(asm.R0, 3),
	asm.Mov.Imm(asm.R0, 0),
	asm.Return(),
}

// calls has a function of its own.
var calls = asm.Instructions{
	asm.Mov.Imm(asm.R1, 7),
	asm.Call.Label("half"),
	asm.Mov.Imm(asm.R0, 0),
	asm.Return(),
	asm.Mov.Reg(asm.R0, asm.R1).WithSymbol("half"),
	asm.Div.Imm(asm.R0, 2),
	asm.Return(),
}

// followsPointer loads through an argument, which may fault: such loads have an
// entry in a table of exceptions.
var followsPointer = asm.Instructions{
	asm.LoadMem(asm.R1, asm.R1, 0, asm.DWord), // struct file *
	asm.LoadMem(asm.R2, asm.R1, 0, asm.DWord),
	asm.Mov.Imm(asm.R0, 0),
	asm.Return(),
}

// followsNumber does the same where the structure begins with a lock.
var followsNumber = asm.Instructions{
	asm.LoadMem(asm.R1, asm.R1, 0, asm.DWord), // struct file *
	asm.LoadMem(asm.R2, asm.R1, 0, asm.Word),
	asm.Mov.Imm(asm.R0, 0),
	asm.Return(),
}

// arithmetic has what most programs lack: shifts by registers, division, byte
// order, atomic operations, 32-bit comparisons.
var arithmetic = asm.Instructions{
	asm.Mov.Imm(asm.R0, 100),
	asm.StoreMem(asm.RFP, -8, asm.R0, asm.DWord),
	asm.Mov.Imm(asm.R1, 3),
	asm.LSh.Reg(asm.R0, asm.R1),
	asm.RSh.Reg(asm.R0, asm.R1),
	asm.ArSh.Reg(asm.R0, asm.R1),
	asm.Mul.Reg(asm.R0, asm.R1),
	asm.Div.Reg(asm.R0, asm.R1),
	asm.Mod.Reg(asm.R0, asm.R1),
	asm.Neg.Imm(asm.R0, 0),
	asm.HostTo(asm.BE, asm.R0, asm.Half),
	asm.HostTo(asm.BE, asm.R0, asm.Word),
	asm.HostTo(asm.BE, asm.R0, asm.DWord),
	asm.Mov.Reg(asm.R6, asm.RFP),
	asm.Add.Imm(asm.R6, -8),
	asm.StoreXAdd(asm.R6, asm.R1, asm.DWord),
	asm.JLT.Imm32(asm.R1, 5, "out"),
	asm.JSGT.Imm(asm.R1, 5, "out"),
	asm.JSet.Imm(asm.R1, 1, "out"),
	asm.StoreImm(asm.RFP, -16, 0x1234, asm.Half),
	asm.LoadMem(asm.R2, asm.RFP, -16, asm.Half),
	asm.LoadImm(asm.R3, 0x1122334455667788, asm.DWord),
	asm.Mov.Imm(asm.R0, 0).WithSymbol("out"),
	asm.Return(),
}

// tailCalls jumps through a map of programs; without such maps it is nil.
func tailCalls() asm.Instructions {
	programs, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 4})
	if err != nil {
		return nil
	}
	return asm.Instructions{
		asm.LoadMapPtr(asm.R2, programs.FD()),
		asm.Mov.Imm(asm.R3, 1),
		asm.FnTailCall.Call(),
		asm.Mov.Imm(asm.R0, 0),
		asm.Return(),
	}
}
