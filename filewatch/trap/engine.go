package trap

import (
	"encoding/binary"
	"sync"
)

// maxPending bounds the calls in flight: one per thread of the guest that is
// inside a hooked function.
const maxPending = 1024

// maxReturns bounds the places hooked functions are called from.
const maxReturns = 512

// Engine runs a driver over stops: it remembers calls until they return. It is
// safe for use by several CPUs at once.
type Engine struct {
	// Deny decides whether an operation about to happen is refused. Nil refuses
	// nothing. It is called with the engine locked.
	Deny func(*Record) bool

	mu      sync.Mutex
	driver  Driver
	hooks   map[uint64]int   // address -> hook
	returns map[uint64]bool  // learnt return addresses
	pending map[uint64]*call // keyed by the stack pointer at entry
	slots   []call           // ring of calls, oldest overwritten first
	next    int
	dropped uint64
	scratch Record
}

// call is a hooked function that has been entered and not left.
type call struct {
	open  bool
	hook  int
	task  uint64
	ret   uint64
	entry Registers
	rec   Record
}

// Outcome of a stop.
type Outcome struct {
	// Learnt is a return address met for the first time, which must be hooked
	// before the CPU goes on; 0 when there is none.
	Learnt uint64
	// Deny asks not to run the function but to return -EACCES to its caller at
	// Return.
	Deny   bool
	Return uint64
}

// NewEngine returns an engine for driver.
func NewEngine(driver Driver) *Engine {
	e := &Engine{
		driver:  driver,
		hooks:   make(map[uint64]int),
		returns: make(map[uint64]bool),
		pending: make(map[uint64]*call),
		slots:   make([]call, maxPending),
	}
	for i, addr := range driver.Hooks() {
		if addr != 0 {
			e.hooks[addr] = i
		}
	}
	return e
}

// Addresses are all addresses to stop at, learnt returns included.
func (e *Engine) Addresses() []uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := make([]uint64, 0, len(e.hooks)+len(e.returns))
	for a := range e.hooks {
		all = append(all, a)
	}
	for a := range e.returns {
		all = append(all, a)
	}
	return all
}

// Dropped counts calls whose return was given up on; each was emitted with the
// mark NotSettled.
func (e *Engine) Dropped() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.dropped
}

// Stop handles a CPU stopped at regs.PC. Emit is called with each finished
// record, which it must not keep: its strings live on, the record does not.
func (e *Engine) Stop(regs *Registers, mem Memory, emit func(*Record)) Outcome {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.returns[regs.PC] {
		e.leave(regs, mem, emit)
	}
	hook, ok := e.hooks[regs.PC]
	if !ok {
		return Outcome{}
	}
	rec := &e.scratch
	*rec = Record{}
	switch e.driver.Enter(hook, regs, mem, rec) {
	case Emit:
		emit(rec)
	case Check:
		if ret, deny := e.deny(regs, mem, rec); deny {
			emit(rec)
			return Outcome{Deny: true, Return: ret}
		}
	case Await:
		if ret, deny := e.deny(regs, mem, rec); deny {
			emit(rec)
			return Outcome{Deny: true, Return: ret}
		}
		return e.await(hook, regs, mem, rec, emit)
	}
	return Outcome{}
}

// deny says whether to refuse, and where the CPU then goes on. Without a
// readable return address nothing is refused.
func (e *Engine) deny(regs *Registers, mem Memory, rec *Record) (ret uint64, deny bool) {
	if e.Deny == nil || !e.Deny(rec) {
		return 0, false
	}
	if ret, deny = returnAddress(regs, mem); deny {
		rec.Marks |= Denied
	}
	return ret, deny
}

// returnAddress reads the return address at the entry of a function. A kernel
// address is in the upper half; anything else is none.
func returnAddress(regs *Registers, mem Memory) (uint64, bool) {
	var word [8]byte
	if !mem.Read(regs.SP, word[:]) {
		return 0, false
	}
	ret := binary.LittleEndian.Uint64(word[:])
	return ret, ret>>63 == 1
}

// await keeps a call until it returns. A call that cannot be kept is emitted
// at once as not settled, never dropped silently.
func (e *Engine) await(hook int, regs *Registers, mem Memory, rec *Record, emit func(*Record)) Outcome {
	ret, ok := returnAddress(regs, mem)
	known := e.returns[ret]
	if !ok || !known && len(e.returns) >= maxReturns {
		e.unsettled(rec, emit)
		return Outcome{}
	}
	if old := e.pending[regs.SP]; old != nil {
		e.abandon(old, emit) // its stack is in use again: it will not return
	}
	slot := &e.slots[e.next]
	e.next = (e.next + 1) % len(e.slots)
	if slot.open {
		e.abandon(slot, emit) // the ring is full
	}
	*slot = call{open: true, hook: hook, task: e.driver.Task(regs, mem), ret: ret, entry: *regs, rec: *rec}
	e.pending[regs.SP] = slot
	if known {
		return Outcome{}
	}
	e.returns[ret] = true
	return Outcome{Learnt: ret}
}

// abandon gives up on the return of a call.
func (e *Engine) abandon(c *call, emit func(*Record)) {
	c.open = false
	delete(e.pending, c.entry.SP)
	e.unsettled(&c.rec, emit)
}

func (e *Engine) unsettled(rec *Record, emit func(*Record)) {
	e.dropped++
	rec.Marks |= NotSettled
	emit(rec)
}

// leave completes the call that returns here: the return popped its address,
// so the stack pointer is one word above that of the entry.
func (e *Engine) leave(regs *Registers, mem Memory, emit func(*Record)) {
	key := regs.SP - 8
	c := e.pending[key]
	if c == nil || c.ret != regs.PC || c.task != e.driver.Task(regs, mem) {
		return
	}
	delete(e.pending, key)
	c.open = false
	if e.driver.Leave(c.hook, &c.entry, regs, mem, &c.rec) {
		emit(&c.rec)
	}
}
