package trap

import (
	"encoding/binary"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// A kernel with three hooked functions, for the engine alone.
const (
	fnWait  = 0xffff_ffff_8100_0000 // its result counts
	fnNow   = 0xffff_ffff_8200_0000 // reported at entry
	fnCheck = 0xffff_ffff_8300_0000 // reported only when refused
	caller  = 0xffff_ffff_8400_0000
	stack   = 0xffff_c900_0000_1000
)

type toyDriver struct{}

func (toyDriver) Hooks() []uint64 { return []uint64{fnWait, fnNow, fnCheck} }
func (toyDriver) Blind() []string { return nil }
func (toyDriver) Enter(hook int, regs *Registers, _ Memory, rec *Record) Action {
	rec.Flags = regs.Args[0]
	rec.Op = filewatch.OpMkdir
	return []Action{Await, Emit, Check}[hook]
}
func (toyDriver) Leave(_ int, _, regs *Registers, _ Memory, rec *Record) bool {
	return regs.AX == 0
}
func (toyDriver) Task(regs *Registers, _ Memory) uint64 { return regs.GSBase }

// words is memory of 64-bit words.
type words map[uint64]uint64

func (m words) Read(addr uint64, p []byte) bool {
	v, ok := m[addr]
	if !ok || len(p) != 8 {
		return false
	}
	binary.LittleEndian.PutUint64(p, v)
	return true
}

// rig collects what an engine emits.
type rig struct {
	*Engine
	mem words
	out []Record
}

func newRig() *rig { return &rig{Engine: NewEngine(toyDriver{}), mem: words{}} }

func (r *rig) stop(regs Registers) Outcome {
	return r.Stop(&regs, r.mem, func(rec *Record) { r.out = append(r.out, *rec) })
}

func (r *rig) call(fn, sp, task, arg uint64) Outcome {
	r.mem[sp] = caller
	return r.stop(Registers{PC: fn, SP: sp, GSBase: task, Args: [6]uint64{arg}})
}

func (r *rig) ret(sp, task, ax uint64) {
	r.stop(Registers{PC: caller, SP: sp + 8, GSBase: task, AX: ax})
}

func TestSuccessIsReportedAtTheReturn(t *testing.T) {
	r := newRig()
	if o := r.call(fnWait, stack, 1, 42); o.Learnt != caller {
		t.Errorf("learnt %#x", o.Learnt)
	}
	if len(r.out) != 0 {
		t.Fatal("reported before it was over")
	}
	r.ret(stack, 1, 0)
	if len(r.out) != 1 || r.out[0].Flags != 42 || r.out[0].Marks != 0 {
		t.Errorf("%+v", r.out)
	}
	if o := r.call(fnWait, stack, 1, 43); o.Learnt != 0 {
		t.Error("learnt the same return twice")
	}
}

func TestFailureIsNotReported(t *testing.T) {
	r := newRig()
	r.call(fnWait, stack, 1, 0)
	r.ret(stack, 1, ^uint64(12)) // -EACCES
	r.ret(stack, 1, 0)           // the same place again, without a call
	if len(r.out) != 0 || r.Dropped() != 0 {
		t.Errorf("%+v, %d dropped", r.out, r.Dropped())
	}
}

func TestCallsOfTasksAndNestedCallsAreToldApart(t *testing.T) {
	r := newRig()
	r.call(fnWait, stack, 1, 1)
	r.call(fnWait, stack-0x100, 1, 2) // nested, deeper in the same stack
	r.call(fnWait, stack+0x4000, 2, 3)
	r.ret(stack, 2, 0) // another task with that stack pointer: not ours
	if len(r.out) != 0 {
		t.Fatalf("a foreign return was taken: %+v", r.out)
	}
	r.ret(stack+0x4000, 2, ^uint64(0))
	r.ret(stack-0x100, 1, 0)
	r.ret(stack, 1, 0)
	if len(r.out) != 2 || r.out[0].Flags != 2 || r.out[1].Flags != 1 {
		t.Errorf("%+v", r.out)
	}
}

func TestNoCallIsForgottenSilently(t *testing.T) {
	r := newRig()
	const n = maxPending + 10
	for i := range uint64(n) {
		r.call(fnWait, stack+i*0x1000, i, i)
	}
	if len(r.out) != 10 || r.Dropped() != 10 {
		t.Fatalf("%d given up, %d counted, want 10", len(r.out), r.Dropped())
	}
	for i, rec := range r.out {
		if rec.Flags != uint64(i) || rec.Marks&NotSettled == 0 {
			t.Errorf("given up: call %d with marks %v", rec.Flags, rec.Marks)
		}
	}
	for i := range uint64(n) {
		r.ret(stack+i*0x1000, i, 0)
	}
	if len(r.out) != n {
		t.Errorf("%d of %d calls reported", len(r.out), n)
	}
}

func TestBusyTaskDoesNotPushOutOthers(t *testing.T) {
	r := newRig()
	for i := range uint64(10 * maxPending) {
		r.call(fnWait, stack, 1, i)
		r.ret(stack, 1, 0)
	}
	if len(r.out) != 10*maxPending || r.Dropped() != 0 {
		t.Errorf("%d reported, %d dropped", len(r.out), r.Dropped())
	}
}

func TestStackUsedAgainEndsTheOldCall(t *testing.T) {
	r := newRig()
	r.call(fnWait, stack, 1, 1) // its task dies inside
	r.call(fnWait, stack, 2, 2)
	r.ret(stack, 2, 0)
	if len(r.out) != 2 || r.out[0].Marks&NotSettled == 0 || r.out[1].Marks != 0 {
		t.Errorf("%+v", r.out)
	}
}

func TestUnreadableReturnAddressIsReportedAsUnsettled(t *testing.T) {
	for name, word := range map[string]*uint64{"no memory": nil, "user address": new(uint64)} {
		r := newRig()
		if word != nil {
			r.mem[stack] = 0x400000
		}
		o := r.stop(Registers{PC: fnWait, SP: stack})
		if o.Learnt != 0 || len(r.out) != 1 || r.out[0].Marks&NotSettled == 0 {
			t.Errorf("%s: %+v %+v", name, o, r.out)
		}
	}
}

func TestReturnPlacesAreBounded(t *testing.T) {
	r := newRig()
	for i := range uint64(2 * maxReturns) {
		r.mem[stack] = caller + i*16
		r.stop(Registers{PC: fnWait, SP: stack})
	}
	if n := len(r.Addresses()); n > maxReturns+3 {
		t.Errorf("%d addresses to stop at", n)
	}
}

func TestRefusal(t *testing.T) {
	r := newRig()
	r.Deny = func(rec *Record) bool { return rec.Flags == 1 }
	for _, fn := range []uint64{fnWait, fnCheck} {
		r.out = nil
		o := r.call(fn, stack, 1, 1)
		if !o.Deny || o.Return != caller || len(r.out) != 1 || r.out[0].Marks != Denied {
			t.Errorf("%#x: %+v %+v", fn, o, r.out)
		}
		if o := r.call(fn, stack, 1, 2); o.Deny {
			t.Errorf("%#x: refused what is allowed", fn)
		}
	}
	// Without a return address to go to, nothing is refused.
	if o := r.stop(Registers{PC: fnCheck, SP: 8, Args: [6]uint64{1}}); o.Deny {
		t.Error("refused without a way back")
	}
}
