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
	raw := make([]byte, s.TableEnd-s.Table)
	if err := s.Space.Read(raw, s.Table); err != nil {
		return err
	}
	s.called = make(map[mem.Virt]securityCall)
	keys := make(map[mem.Virt]mem.Virt) // static keys that are on, and whose they are
	for ; uint64(len(raw)) >= size; raw = raw[size:] {
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
		if int32(on) <= 0 {
			s.called[at] = securityCall{why: "its static key is off"}
			continue
		}
		s.called[at] = securityCall{to: mem.Virt(to)}
		keys[word(active)] = at
	}
	return s.readJumps(keys)
}

// readJumps looks whether the branches of keys that are on lead to the call: struct
// jump_entry is the distance to the instruction, that to where it jumps, and that to the
// key, with the branch that is taken while the key is off in bit 0 (jump_label_type,
// include/linux/jump_label.h and kernel/jump_label.c).
func (s *securityHooks) readJumps(keys map[mem.Virt]mem.Virt) error {
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
	for c := bin.Little(raw); c.Len() >= 16; {
		entry := from + mem.Virt(c.Offset())
		site := entry + mem.Virt(int64(int32(c.U32())))
		c.Skip(4)
		distance := c.U64()
		hook, ok := keys[entry+8+mem.Virt(distance&^3)]
		if !ok || site < first || site >= last { // another's, or of boot
			continue
		}
		var code [1]byte
		if err := s.Space.Read(code[:], site); err != nil {
			return err
		}
		if jumps := code[0] == opJump || code[0] == opShort; jumps == (distance&1 != 0) {
			name, offset, _ := s.Lookup(site)
			s.called[hook] = securityCall{why: fmt.Sprintf("%s+%#x leaves it out", name, offset)}
		}
	}
	return nil
}
