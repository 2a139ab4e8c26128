package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// SecurityHooks are the hooks of one security module: an array of struct
// security_hook_list which the module registers as a whole, at boot and for good
// (security_add_hooks, security/security.c and, since 7.0, security/lsm_init.c).
type SecurityHooks struct {
	Name       string // of the array
	At         mem.Virt
	Count      int // of hooks
	Registered int // how many say that they are registered
	Silent     []SilentHook
}

// SilentHook is a hook that is registered and that the kernel does not call.
type SilentHook struct {
	At, Function mem.Virt // struct security_hook_list, and what it would have called
	Why          string
}

// SecurityLayout says where in a struct security_hook_list a pointer leads into the
// table through which the kernel calls hooks.
type SecurityLayout struct {
	Size, Into uint64 // bytes: of the structure; where the pointer is
	// Jumps are, since 6.12, the branches of each static key that is on and leads to a
	// call, as the table of jump labels has them.
	Jumps map[mem.Virt][]JumpSite
}

// Limits of what a target may claim. The largest array has some 250 hooks, for all
// that there are.
const (
	maxHookArrays = 64
	maxHooks      = 4096
	maxHookList   = 256

	minHook = 24 // bytes: three pointers at least
	maxHook = 256
)

// securityHooks reads them. Up to 6.11 hooks are on lists, one for each kind; then each
// has a static call and a static key that says whether it is called.
type securityHooks struct {
	*Profile
	SecurityLayout
	Table, TableEnd   mem.Virt
	hook, owner, link uint64 // of struct security_hook_list
	calls             bool   // there are static calls, and no lists

	// Since 6.12:
	called map[mem.Virt][]*securityCall // by the hook that a slot has
	ends   map[mem.Virt]mem.Virt        // of a hook's slots, by their start
}

// securityCall is how the kernel calls a hook.
type securityCall struct {
	slot, to mem.Virt
	why      string // it does not
}

// SecurityHooks lists the hooks of each security module that the kernel was built
// with. A kernel without such modules has none.
func (p *Profile) SecurityHooks() ([]SecurityHooks, SecurityLayout, error) {
	s, err := p.securityLayout()
	if s == nil || err != nil {
		return nil, SecurityLayout{}, err
	}
	if s.calls {
		if err := s.readCalls(); err != nil {
			return nil, SecurityLayout{}, fmt.Errorf("security hooks: %w", err)
		}
	}
	var out []SecurityHooks
	for _, array := range HookArrays(p.Symbols, 0) {
		if len(out) == maxHookArrays {
			return nil, SecurityLayout{}, fmt.Errorf("security hooks: %w: more than %d arrays", ErrListTooLong, maxHookArrays)
		}
		a, err := s.array(array)
		if err != nil {
			return nil, SecurityLayout{}, fmt.Errorf("security hooks: %s: %w", array.Name, err)
		}
		if a.Count > 0 {
			out = append(out, a)
		}
	}
	return out, s.SecurityLayout, nil
}

// HookArray is where an array of security hooks may be.
type HookArray struct {
	Name    string
	At, End mem.Virt
}

// HookArrays lists what may be arrays of security hooks: by the names of symbols, in
// memory that is read-only after boot. Addresses are slide higher than the symbols'.
func HookArrays(symbols *Symbols, slide uint64) []HookArray {
	from, ok1 := symbols.Address("__start_ro_after_init")
	to, ok2 := symbols.Address("__end_ro_after_init")
	if !ok1 || !ok2 {
		return nil
	}
	var out []HookArray
	for s := range symbols.All() {
		if s.Addr < from || s.Addr >= to || !strings.HasSuffix(s.Name, "_hooks") {
			continue
		}
		out = append(out, HookArray{s.Name, mem.Virt(s.Addr + slide), mem.Virt(min(symbols.Next(s.Addr), to) + slide)})
	}
	return out
}

// securityLayout is nil for a kernel without security modules.
func (p *Profile) securityLayout() (*securityHooks, error) {
	s := &securityHooks{Profile: p}
	const structure = "security_hook_list"
	into := "head"
	table, ok := p.Symbol("security_hook_heads")
	if !ok {
		if table, s.calls = p.Symbol("static_calls_table"); !s.calls {
			return nil, nil
		}
		into = "scalls"
	}
	s.Table, s.TableEnd = table, mem.Virt(p.Symbols.Next(uint64(table)))
	var errs [5]error
	s.Size, errs[0] = p.Types.Size(structure)
	s.Into, errs[1] = p.Types.Offset(structure, into)
	s.hook, errs[2] = p.Types.Offset(structure, "hook")
	if !s.calls {
		s.link, errs[3] = p.Types.Offset(structure, "list")
	}
	owner := "lsm"
	if p.Types.Has(structure, "lsmid") { // since 6.8
		owner = "lsmid"
	}
	s.owner, errs[4] = p.Types.Offset(structure, owner)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("security hooks: %w", err)
	}
	if s.Size < minHook || s.Size > maxHook || s.TableEnd-s.Table > 1<<20 || max(s.Into, s.hook, s.owner, s.link+8)+8 > s.Size {
		return nil, fmt.Errorf("security hooks: %w: %d bytes", ErrNoTypes, s.Size)
	}
	return s, nil
}

// array reads one array. It ends where no pointer into the table follows.
func (s *securityHooks) array(of HookArray) (SecurityHooks, error) {
	out := SecurityHooks{Name: of.Name, At: of.At}
	room := min(uint64(of.End-of.At)/s.Size, maxHooks)
	raw := make([]byte, room*s.Size)
	if err := s.Space.Read(raw, of.At); err != nil {
		return out, err
	}
	lists := make(map[mem.Virt]map[mem.Virt]bool)
	for at := of.At; len(raw) > 0; raw, at = raw[s.Size:], at+mem.Virt(s.Size) {
		word := func(offset uint64) mem.Virt { return mem.Virt(binary.LittleEndian.Uint64(raw[offset:])) }
		head := word(s.Into)
		if head < s.Table || head >= s.TableEnd {
			break
		}
		out.Count++
		if word(s.owner) == 0 {
			continue
		}
		out.Registered++
		if s.calls {
			if why := s.silentCall(at, head, word(s.hook)); why != "" {
				out.Silent = append(out.Silent, SilentHook{at, word(s.hook), why})
			}
			continue
		}
		if lists[head] == nil {
			var err error
			if lists[head], err = s.list(head); err != nil {
				return out, err
			}
		}
		if !lists[head][at+mem.Virt(s.link)] {
			out.Silent = append(out.Silent, SilentHook{at, word(s.hook), "it is not on the list of its hook"})
		}
	}
	return out, nil
}

// list reads the nodes of a struct hlist_head.
func (s *securityHooks) list(head mem.Virt) (map[mem.Virt]bool, error) {
	nodes := make(map[mem.Virt]bool)
	for at := head; ; {
		next, err := s.Space.U64(at)
		if err != nil {
			return nil, err
		}
		if at = mem.Virt(next); at == 0 || nodes[at] {
			return nodes, nil
		}
		if nodes[at] = true; len(nodes) > maxHookList {
			return nil, ErrListTooLong
		}
	}
}

// silentCall says why a hook with a function is not called: one of the slots that its
// kind has, from the first on, is to have it.
func (s *securityHooks) silentCall(at, first, function mem.Virt) string {
	why := "no call has it"
	for _, call := range s.called[at] {
		switch {
		case call.slot < first || call.slot >= s.ends[first]:
			why = fmt.Sprintf("the call at %v that has it is another hook's", call.slot)
		case call.why != "":
			why = call.why
		case call.to != function:
			why = fmt.Sprintf("its call goes to %v, it has %v", call.to, function)
		default:
			return ""
		}
	}
	return why
}
