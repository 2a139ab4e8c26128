package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/internal/bin"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// maxJumpTable bounds the kernel's table of jump labels, in bytes: Debian's 7.2 has
// some 160 KiB.
const maxJumpTable = 4 << 20

// readCalls reads the slots of struct lsm_static_calls_table (include/linux/lsm_hooks.h):
// each has a hook, the key of its static call, and the static key that leads to the call.
func (s *securityHooks) readCalls() error {
	const structure = "lsm_static_call"
	size, err1 := s.Types.Size(structure)
	hook, err2 := s.Types.Offset(structure, "hl")
	key, err3 := s.Types.Offset(structure, "key")
	active, err4 := s.Types.Offset(structure, "active")
	function, err5 := s.Types.Offset("static_call_key", "func")
	enabled, err6 := s.Types.Offset("static_key", "enabled")
	if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
		return err
	}
	if size < 24 || size > 256 || max(hook, key, active)+8 > size {
		return fmt.Errorf("%w: %s of %d bytes", ErrNoTypes, structure, size)
	}
	var err error
	if s.ends, err = s.callsOfHooks(); err != nil {
		return err
	}
	raw := make([]byte, s.TableEnd-s.Table)
	if err := s.Space.Read(raw, s.Table); err != nil {
		return err
	}
	s.called = make(map[mem.Virt][]*securityCall)
	keys := make(map[mem.Virt][]*securityCall) // by the static keys that are on
	for slot := s.Table; uint64(len(raw)) >= size; raw, slot = raw[size:], slot+mem.Virt(size) {
		word := func(offset uint64) mem.Virt { return mem.Virt(binary.LittleEndian.Uint64(raw[offset:])) }
		at := word(hook)
		if at == 0 {
			continue
		}
		on, err1 := s.Space.U32(word(active) + mem.Virt(enabled))
		to, err2 := s.Space.U64(word(key) + mem.Virt(function))
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		call := &securityCall{slot: slot, to: mem.Virt(to)}
		s.called[at] = append(s.called[at], call)
		if int32(on) <= 0 {
			call.why = "its static key is off"
			continue
		}
		keys[word(active)] = append(keys[word(active)], call)
	}
	return s.readJumps(keys)
}

// callsOfHooks says for each hook where its slots in the table end, by where they
// start: there is an array of them for each.
func (s *securityHooks) callsOfHooks() (map[mem.Virt]mem.Virt, error) {
	const structure = "lsm_static_calls_table"
	t, err := s.Types.Struct(structure)
	if err != nil {
		return nil, err
	}
	ends := make(map[mem.Virt]mem.Virt, len(t.Members))
	for _, m := range t.Members {
		member, err := s.Types.Member(structure, m.Name)
		if err != nil {
			return nil, err
		}
		ends[s.Table+mem.Virt(member.Offset)] = s.Table + mem.Virt(member.Offset+member.Size)
	}
	return ends, nil
}

// jumpEntry is the size of struct jump_entry, in bytes: the distances to the
// instruction, to where it jumps and to the key, with the branch that is taken while the
// key is off in bit 0 of the last, and whether it is of boot in bit 1 (jump_label_type,
// include/linux/jump_label.h and kernel/jump_label.c).
const jumpEntry = 16

// readJump reads the next entry of a table of jump labels at an address.
func readJump(c *bin.Cursor, table mem.Virt) (key mem.Virt, jump JumpSite) {
	at := table + mem.Virt(c.Offset())
	jump.At = at + mem.Virt(int64(int32(c.U32())))
	c.Skip(4)
	distance := c.U64()
	jump.Likely = distance&1 != 0
	return at + 8 + mem.Virt(distance&^3), jump
}

// readJumps looks whether the branches of keys that are on lead to the call.
func (s *securityHooks) readJumps(keys map[mem.Virt][]*securityCall) error {
	from, ok1 := s.Symbol("__start___jump_table")
	to, ok2 := s.Symbol("__stop___jump_table")
	first, ok3 := s.Symbol("_stext")
	last, ok4 := s.Symbol("_etext")
	if !ok1 || !ok2 || !ok3 || !ok4 || to < from || to-from > maxJumpTable {
		return fmt.Errorf("%w: no table of jump labels", ErrNoSymbols)
	}
	raw := make([]byte, to-from)
	if err := s.Space.Read(raw, from); err != nil {
		return err
	}
	s.Jumps = make(map[mem.Virt][]JumpSite, len(keys))
	for key := range keys {
		s.Jumps[key] = nil
	}
	for c := bin.Little(raw); c.Len() >= jumpEntry; {
		key, jump := readJump(c, from)
		calls, ok := keys[key]
		if !ok || jump.At < first || jump.At >= last { // another's, or of boot
			continue
		}
		s.Jumps[key] = append(s.Jumps[key], jump)
		var code [1]byte
		if err := s.Space.Read(code[:], jump.At); err != nil {
			return err
		}
		if jumps := code[0] == opJump || code[0] == opShort; jumps == jump.Likely {
			name, offset, _ := s.Lookup(jump.At)
			for _, call := range calls {
				call.why = fmt.Sprintf("%s+%#x leaves it out", name, offset)
			}
		}
	}
	return nil
}
