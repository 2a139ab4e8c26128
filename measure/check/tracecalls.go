package check

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Where a tracepoint has one probe its static call goes straight to that, else to
// the iterator, a function of its own that calls all there are (kernel/tracepoint.c,
// tracepoint_update_call, since 5.10; include/linux/tracepoint.h, DEFINE_TRACE_FN).

// traceCallFacts are the static calls of tracepoints, read by linux.objects.
type traceCallFacts struct {
	// Kernel is how many of the kernel's own were looked at.
	Kernel int `json:"kernel"`
	// Calls are the kernel's own that have probes or do not go to their iterator,
	// and all of modules.
	Calls []traceCall `json:"calls,omitempty"`
	// Unread says why they are not known.
	Unread string `json:"unread,omitempty"`
	// Gone are modules that came or went meanwhile.
	Gone []string `json:"gone,omitempty"`
	// Open are tracepoints that do not go where they should and were being changed
	// as often as they were looked at.
	Open []string `json:"open,omitempty"`
}

// traceCall is one of them. Its name, and where its iterator is, are by the
// target's own symbols.
type traceCall struct {
	Module   string    `json:"m,omitempty"`
	Name     string    `json:"t"`
	At       address   `json:"a"`           // its struct tracepoint
	Key      address   `json:"k"`           // struct static_call_key
	Call     address   `json:"c"`           // the function in the key
	Symbol   string    `json:"y,omitempty"` // of Call
	Iterator address   `json:"i,omitempty"`
	Probes   []address `json:"p,omitempty"` // the first two
}

// Symbols of a tracepoint, before its name.
const (
	tracepointPrefix = "__tracepoint_"
	traceKeyPrefix   = "__SCK__tp_func_"
	iteratorPrefix   = "__traceiter_"
)

// follows says what is wrong with where a call goes, by where the iterator is;
// nothing if it is right.
func (t *traceCall) follows(iterator address) string {
	switch {
	case t.Call == iterator && iterator != 0:
		return ""
	case len(t.Probes) == 0:
		return "the static call of a tracepoint without probes does not go to the function that calls all of them"
	case len(t.Probes) == 1 && t.Call == t.Probes[0]:
		return ""
	case len(t.Probes) == 1:
		return "the static call of a tracepoint goes neither to its only probe nor to the function that calls all of them"
	}
	return "the static call of a tracepoint with several probes does not go to the function that calls all of them"
}

// Probes are registered under a lock, and the call follows before it is released.
// What looks wrong counts if so many looks in a row found the same, with the lock
// free before and after each. So many looks there are in any case; others as long as
// the scan has patience for locks.
const traceCallLooks = 10

// maxTraceCalls bounds the tracepoints of a target: Debian's kernels have 2,000.
const maxTraceCalls = 1 << 16

var errTooManyTraceCalls = fmt.Errorf("over %d tracepoints", maxTraceCalls)

// traceCalls reads the facts.
func (c *collector) traceCalls() (facts traceCallFacts) {
	r := traceCallReader{collector: c}
	if !c.profile.Types.Has("tracepoint", "static_call_key") {
		return facts // before 5.10, or built without
	}
	if err := r.layout(); err != nil {
		facts.Unread = err.Error()
		return facts
	}
	calls := r.kernels()
	facts.Kernel = len(calls)
	for i := range c.modules {
		if c.modules[i].Live && len(calls) < maxTraceCalls {
			calls = append(calls, r.ofModule(&c.modules[i])...)
		}
	}
	if len(calls) >= maxTraceCalls {
		facts.Unread = errTooManyTraceCalls.Error()
		return facts
	}
	r.settle(calls)
	for i := range calls {
		t := &calls[i]
		switch err := t.err; {
		case errors.Is(err, errRegistering):
			facts.Open = append(facts.Open, t.path())
		case err != nil && t.Module != "": // one too few, if the module stays
		case err != nil:
			facts.Unread = fmt.Sprintf("%s: %v", t.path(), err)
			return facts
		case t.Module != "" || len(t.Probes) > 0 || t.Call != t.Iterator:
			t.Symbol = c.symbol(mem.Virt(t.Call))
			facts.Calls = append(facts.Calls, t.traceCall)
		}
	}
	var err error
	if facts.Gone, err = r.gone(); err != nil {
		facts.Unread = err.Error()
	}
	return facts
}

// gone names the modules that are not what they were when the scan began.
func (r *traceCallReader) gone() (names []string, err error) {
	var now []kernel.LoadedModule
	for range traceCallLooks {
		if now, err = r.profile.Modules(); err == nil {
			names, _ = unsettledTracepoints(r.modules, now)
			return names, nil
		}
		select {
		case <-r.ctx.Done():
			return nil, r.ctx.Err()
		case <-time.After(lastingPause):
		}
	}
	return nil, err
}

// traceCallReader knows the layout of tracepoints.
type traceCallReader struct {
	*collector
	lock       mem.Virt // owner of tracepoints_mutex
	key, funcs mem.Virt // offsets in struct tracepoint
	next       mem.Virt // size of struct tracepoint_func, of which func is the first
}

// layout looks up where everything is.
func (r *traceCallReader) layout() error {
	types := r.profile.Types
	lock, ok := r.profile.Symbol("tracepoints_mutex")
	if !ok {
		return fmt.Errorf("%w: tracepoints_mutex", kernel.ErrNoSymbols)
	}
	owner, err := types.Offset("mutex", "owner")
	r.lock = lock + mem.Virt(owner)
	key, err1 := types.Offset("tracepoint", "static_call_key")
	funcs, err2 := types.Offset("tracepoint", "funcs")
	size, err3 := types.Size("tracepoint_func")
	r.key, r.funcs, r.next = mem.Virt(key), mem.Virt(funcs), mem.Virt(size)
	return errors.Join(err, err1, err2, err3)
}

// kernels lists the kernel's own tracepoints, by its symbols.
func (r *traceCallReader) kernels() []traceLook {
	var out []traceLook
	for _, s := range r.profile.Symbols.WithPrefix(traceKeyPrefix) {
		name := strings.TrimPrefix(s.Name, traceKeyPrefix)
		at, ok1 := r.profile.Symbol(tracepointPrefix + name)
		iterator, ok2 := r.profile.Symbol(iteratorPrefix + name)
		if ok1 && ok2 {
			out = append(out, traceLook{traceCall: traceCall{Name: name, At: address(at), Key: address(s.Addr), Iterator: address(iterator)}})
		}
	}
	return out
}

// ofModule lists those of a module by its table of them, which linux.objects
// compares with its file.
func (r *traceCallReader) ofModule(m *kernel.LoadedModule) []traceLook {
	var out []traceLook
	symbols, _ := r.moduleSymbols(m)
	for i := range min(mem.Virt(m.Tracepoints), maxTraceCalls) {
		entry := m.TracepointTable + 4*i
		distance, err := r.space.U32(entry)
		if err != nil {
			break
		}
		t := traceCall{Module: m.Name, At: address(entry) + address(int64(int32(distance)))}
		key, err := r.space.U64(mem.Virt(t.At) + r.key)
		if err != nil {
			continue
		}
		t.Key = address(key)
		if symbols != nil {
			if name, start, ok := symbols.Lookup(uint64(t.At)); ok && start == uint64(t.At) {
				t.Name = strings.TrimPrefix(name, tracepointPrefix)
			}
			iterator, _ := symbols.Address(iteratorPrefix + t.Name)
			t.Iterator = address(iterator)
		}
		out = append(out, traceLook{traceCall: t})
	}
	return out
}

// look reads where a call goes, and the first two probes.
func (r *traceCallReader) look(t *traceCall) error {
	t.Probes = nil
	call, err := r.space.U64(mem.Virt(t.Key))
	if err != nil {
		return err
	}
	t.Call = address(call)
	list, err := r.space.U64(mem.Virt(t.At) + r.funcs)
	for i := mem.Virt(0); err == nil && list != 0 && i < 2; i++ {
		var probe uint64
		if probe, err = r.space.U64(mem.Virt(list) + i*r.next); err == nil && probe == 0 {
			break // the end of the list
		}
		t.Probes = append(t.Probes, address(probe))
	}
	return err
}

var errRegistering = errors.New("probes were being registered all the time")

// traceLook is a call that is looked at.
type traceLook struct {
	traceCall
	same int   // looks in a row that found the same, and the lock free
	err  error // why it is not known
}

// settle looks at calls. Where one goes is what it was right in, or what enough
// looks found. That of a module with no symbols is looked at once.
func (r *traceCallReader) settle(calls []traceLook) {
	var open []*traceLook
	for i := range calls {
		t := &calls[i]
		if t.err = r.look(&t.traceCall); t.err == nil && t.Iterator != 0 && t.follows(t.Iterator) != "" {
			open = append(open, t)
		}
	}
	for looks := 0; len(open) > 0; looks++ {
		err := r.forLocks.wait(r.ctx, lastingPause)
		if looks >= traceCallLooks && (r.still || r.forLocks.over()) {
			err = errRegistering
		}
		open = slices.DeleteFunc(open, func(t *traceLook) bool {
			if t.err = err; err == nil {
				r.lookAgain(t)
			}
			return t.err != nil || t.same == traceCallLooks || t.follows(t.Iterator) == ""
		})
	}
}

// lookAgain looks at a call that was wrong.
func (r *traceCallReader) lookAgain(t *traceLook) {
	before := t.traceCall
	free := r.free()
	t.err = r.look(&t.traceCall)
	if free && r.free() && t.like(&before) {
		t.same++
	} else {
		t.same = 0
	}
}

// like reports whether two looks found the same.
func (t *traceCall) like(other *traceCall) bool {
	if t.Call != other.Call || len(t.Probes) != len(other.Probes) {
		return false
	}
	for i := range t.Probes {
		if t.Probes[i] != other.Probes[i] {
			return false
		}
	}
	return true
}

func (r *traceCallReader) free() bool {
	owner, err := r.space.U64(r.lock)
	return err == nil && owner == 0
}
