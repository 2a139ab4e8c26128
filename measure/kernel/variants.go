package kernel

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
)

// variants returns what the bytes of a site may turn into. cur is the site as
// it was before this patch, at its address; seen is what memory has there.
// Where an encoding has a free part, such as the target of a call, seen names
// the one that is then checked. cur itself is left out: a site may always be
// left alone.
func (x *explainer) variants(s site, at uint64, cur, seen []byte) [][]byte {
	switch s.kind {
	case siteParavirt:
		return x.paravirt(at, cur, seen)
	case siteRetpoline:
		return x.retpoline(at, cur)
	case siteReturn:
		return x.returns(at, cur)
	case siteAlternative:
		return x.alternatives(x.obj.alts[s.arg], at, cur, seen)
	case siteCall:
		return x.counting(at, cur)
	case siteSeal: // ENDBR64 becomes a NOP that no compiler emits (asm/ibt.h)
		if bytes.Equal(cur, []byte{0xf3, 0x0f, 0x1e, 0xfa}) {
			return [][]byte{{0x66, 0x0f, 0x1f, 0x00}, {0x0f, 0x1f, 0x40, 0xd6}} // the second from 6.16 on
		}
	case siteLock: // a kernel on one CPU drops LOCK
		if len(cur) == 1 && cur[0] == opLock {
			return [][]byte{{opDS}}
		}
	case siteConstant:
		return x.constant(s, seen)
	case siteStaticCall, siteTrampoline:
		return x.staticCall(s, at, cur, seen)
	case siteJump:
		return x.jump(x.obj.targets[s.arg], at, seen)
	case siteTrace:
		return x.trace(at, seen)
	case siteTracer:
		return x.tracer(at, seen)
	}
	return nil
}

// paravirt: an indirect call through pv_ops became a direct one to the function
// that pv_ops holds, or nothing at all where that does nothing, followed by NOPs
// (arch/x86/kernel/paravirt.c, paravirt_patch; from 6.8 on alt_replace_call).
func (x *explainer) paravirt(at uint64, cur, seen []byte) [][]byte {
	function, known := x.env.paravirtFunction(at, cur)
	if known && !x.env.approved(function) {
		return nil
	}
	if op, target, ok := branchTarget(seen, at); ok && op == paravirtOp(cur) && isPadding(seen[5:]) {
		target = x.env.behindCounter(op, target)
		if known && target != function || !x.env.approved(target) {
			return nil
		}
		return [][]byte{seen}
	}
	if isPadding(seen) && known && x.env.doesNothing(function) {
		return [][]byte{seen}
	}
	name := strings.TrimPrefix(x.env.nameAt(function), "__raw_callee_save_")
	for _, native := range paravirtNative[name] {
		if known && bytes.HasPrefix(seen, native) && isPadding(seen[len(native):]) {
			return [][]byte{seen}
		}
	}
	return nil
}

// paravirtOp is what an indirect branch through pv_ops becomes: FF /4 is a JMP,
// any other a CALL.
func paravirtOp(code []byte) byte {
	if len(code) > 1 && code[0] == 0xff && code[1]&0x38 == 0x20 {
		return opJump
	}
	return opCall
}

// paravirtNative are the instructions that are inlined instead of a call, by
// the function in pv_ops: up to 5.10 all that are short enough
// (arch/x86/kernel/paravirt_patch.c), later only the identity.
var paravirtNative = map[string][][]byte{
	"_paravirt_ident_64":          {{0x48, 0x89, 0xf8}}, // mov %rdi, %rax
	"native_irq_disable":          {{0xfa}},             // cli
	"native_irq_enable":           {{0xfb}},             // sti
	"native_save_fl":              {{0x9c, 0x58}},       // pushf; pop %rax
	"native_restore_fl":           {{0x57, 0x9d}},       // push %rdi; popf
	"native_read_cr2":             {{0x0f, 0x20, 0xd0}}, // mov %cr2, %rax
	"__native_read_cr3":           {{0x0f, 0x20, 0xd8}}, // mov %cr3, %rax
	"native_write_cr3":            {{0x0f, 0x22, 0xdf}}, // mov %rdi, %cr3
	"native_wbinvd":               {{0x0f, 0x09}},
	"native_swapgs":               {{0x0f, 0x01, 0xf8}},
	"native_usergs_sysret64":      {{0x0f, 0x01, 0xf8, 0x48, 0x0f, 0x07}}, // swapgs; sysretq
	"__native_queued_spin_unlock": {{0xc6, 0x07, 0x00}},                   // movb $0, (%rdi)
	"__native_vcpu_is_preempted":  {{0x31, 0xc0}},                         // xor %eax, %eax
}

// retpoline: a branch to __x86_indirect_thunk_REG became the indirect branch
// itself, behind LFENCE on some CPUs (arch/x86/kernel/alternative.c,
// patch_retpoline).
func (x *explainer) retpoline(at uint64, cur []byte) [][]byte {
	code, at := cur, at
	var inverted []byte
	switch {
	case len(code) == 6 && code[0] == 0x2e:
		code, at = code[1:], at+1
	case len(code) == 6: // Jcc: an inverted short one jumps over
		inverted = []byte{0x70 | code[1]&0xf ^ 1, 4}
		code, at = append([]byte{opJump}, code[2:]...), at+1
	}
	op, target, ok := branchTarget(code, at)
	if !ok {
		return nil
	}
	reg, ok := x.env.thunkRegister(target)
	if !ok {
		return nil
	}
	var out [][]byte
	if thunk, ok := x.env.countingThunk(op, reg); ok {
		out = append(out, slices.Concat(cur[:len(cur)-len(code)], branch(cur[len(cur)-5], uint64(at), thunk)))
	}
	modrm := byte(0xd0)
	if op == opJump {
		modrm = 0xe0
	}
	indirect := []byte{0xff, modrm | reg&7}
	if reg >= 8 {
		indirect = append([]byte{0x41}, indirect...)
	}
	for _, fence := range [][]byte{nil, {0x0f, 0xae, 0xe8}} {
		body := append(append(append([]byte(nil), inverted...), fence...), indirect...)
		if len(body) > len(cur) {
			continue
		}
		fills := [][]byte{body}
		if op == opJump && len(body) < len(cur) {
			fills = append(fills, append(body[:len(body):len(body)], opInt3))
		}
		for _, b := range fills {
			out = append(out, padded(b, len(cur), opNop), append(b[:len(b):len(b)], nops(len(cur)-len(b))...))
		}
		// As of 7.2 prefixes stand before a short call, and INT3 behind a jump (emit_indirect).
		switch excess := len(cur) - len(body); {
		case op == opJump:
			out = append(out, padded(body, len(cur), opInt3))
		case excess <= 3:
			prefixes := bytes.Repeat([]byte{0x2e}, excess)
			out = append(out, slices.Concat(inverted, fence, prefixes, indirect))
		}
	}
	return out
}

// returns: a jump to __x86_return_thunk became a RET, or a jump to another
// return thunk (apply_returns).
func (x *explainer) returns(at uint64, cur []byte) [][]byte {
	out := [][]byte{padded([]byte{opRet}, len(cur), opInt3)}
	if len(cur) != 5 {
		return out
	}
	for _, name := range returnThunks {
		if thunk, ok := x.env.image.Symbols.Address(name); ok {
			out = append(out, branch(opJump, at, thunk+x.env.slide))
		}
	}
	return out
}

// alternatives: the instruction became its replacement, moved, and the rest
// NOPs; or, left alone, its padding was merged into longer NOPs
// (apply_alternatives, optimize_nops).
func (x *explainer) alternatives(a alternative, at uint64, cur, seen []byte) [][]byte {
	var out [][]byte
	if merged := mergeNops(cur, seen); !bytes.Equal(merged, cur) {
		out = append(out, merged)
	}
	if a.flags&altDirectCall != 0 {
		out = append(out, x.paravirt(at, cur, seen)...)
	}
	if len(cur) < int(a.size) {
		return out
	}
	for _, r := range x.replacement(a) {
		moved, length := rebase(r, a.replacement+x.slide-at, seen)
		if rest := seen[length:]; isPadding(rest) || length < len(r) && allInt3(rest[:len(r)-length]) && isPadding(rest[len(r)-length:]) {
			out = append(out, append(moved, rest...))
		} else {
			out = append(out, mergeNops(padded(moved, len(cur), opNop), seen))
		}
	}
	for _, code := range append([][]byte{cur}, out...) {
		out = append(out, x.counting(at, code)...)
	}
	return out
}

// replacement returns what a replacement's own bytes may be: it has patch sites
// of its own, such as retpolines, which are patched first.
func (x *explainer) replacement(a alternative) [][]byte {
	start := uint32(a.replacement - x.obj.replacements.addr)
	code := x.text.replacements()[start : start+uint32(a.size)]
	out := [][]byte{code}
	for _, s := range x.obj.insideOf(start, uint32(a.size)) {
		from, to := s.off-start, s.end()-start
		for _, whole := range out[:len(out):len(out)] {
			at := x.slide + x.obj.replacements.addr + uint64(s.off)
			for _, v := range x.variants(s, at, whole[from:to], whole[from:to]) {
				out = append(out, append(append(append([]byte(nil), whole[:from]...), v...), whole[to:]...))
			}
		}
	}
	return out
}

// rebase moves code by delta bytes towards lower addresses, as far as seen
// shows that it was moved: relative operands of CALL, JMP and Jcc, and since
// 6.3 those relative to RIP, grow by delta; a JMP that then fits may have
// become a short one, which shortens the code (recompute_jump,
// __apply_relocation). It returns the moved code and its length.
func rebase(code []byte, delta uint64, seen []byte) ([]byte, int) {
	out := append([]byte(nil), code...)
	if len(code) == 5 && code[0] == opJump && len(seen) >= 5 && seen[0] == opShort {
		if rel := int64(rel32(code[1:])) + int64(delta) + 3; rel == int64(int8(rel)) {
			return []byte{opShort, byte(rel)}, 2
		}
	}
	from := 0
	if _, target, ok := branchTarget(code, 0); ok && target > uint64(len(code)) {
		// The first instruction is certain, and leaves the replacement.
		binary.LittleEndian.PutUint32(out[1:], uint32(rel32(out[1:]))+uint32(delta))
		from = 5
	}
	for i := from; i+4 <= len(out) && i+4 <= len(seen); i++ {
		moved := uint32(rel32(out[i:])) + uint32(delta)
		if relativeOperand(code, i) && moved == uint32(rel32(seen[i:])) {
			copy(out[i:], seen[i:i+4])
			i += 3
		}
	}
	return out, len(out)
}

// relativeOperand reports whether a relative 32-bit operand can lie at code[i]:
// behind a CALL or JMP, a Jcc, or a ModRM byte that means RIP-relative.
func relativeOperand(code []byte, i int) bool {
	switch {
	case i == 0:
		return false
	case code[i-1] == opCall || code[i-1] == opJump:
		return true
	case i >= 2 && code[i-2] == 0x0f && code[i-1]&0xf0 == 0x80:
		return true
	}
	return i >= 2 && code[i-1]&0xc7 == 0x05
}

// constant: the immediate operand became the value that the kernel computed at
// boot, which it also keeps in a variable of the same name. Where the compiler
// left the variable out, all sites must have the same value.
func (x *explainer) constant(s site, seen []byte) [][]byte {
	name := constantName(x.obj.constants[s.arg])
	value, ok := x.env.facts.Constants[name]
	if !ok {
		if value, ok = x.env.constants[name]; !ok {
			value = binary.LittleEndian.Uint64(append(bytes.Clone(seen), make([]byte, 8)...))
			x.env.constants[name] = value
		}
	}
	return [][]byte{binary.LittleEndian.AppendUint64(nil, value)[:len(seen)]}
}

// constantName returns the variable's name from that of the table: "runtime_",
// the kind of constant, the name.
func constantName(table string) string {
	_, name, _ := strings.Cut(strings.TrimPrefix(table, "runtime_"), "_")
	return name
}

// staticCall: the call goes straight to the function that the key has, or was
// turned off because the key has none or the one that returns 0
// (arch/x86/kernel/static_call.c, __static_call_transform). Where the key is not
// known each of these is allowed.
func (x *explainer) staticCall(s site, at uint64, cur, seen []byte) [][]byte {
	key := x.env.keyOf(x.text, s)
	function, known := x.env.facts.StaticCalls[key]
	none := !known || function == 0
	if len(seen) == 6 && seen[0] == 0x0f && seen[1]&0xf0 == 0x80 {
		target := at + 6 + uint64(int64(rel32(seen[2:])))
		off := none && (x.env.returnThunk(target) || x.env.nameAt(target) == "__static_call_return")
		if cur[1] == seen[1] && (off || x.calls(function, known, target) || x.callsElsewhere(at, seen, function, target)) {
			return [][]byte{seen}
		}
		return nil
	}
	var out [][]byte
	tail := len(cur) > 0 && cur[0] != opCall
	switch {
	case none && tail:
		out = append(out, []byte{opRet, opInt3, opInt3, opInt3, opInt3})
	case none && isAtomicNop(seen):
		out = append(out, seen)
	case none:
		out = append(out, nop(5))
	}
	if name := x.env.nameAt(function); !tail && (!known || name == "__static_call_return0") {
		out = append(out, []byte{0x2e, 0x2e, 0x2e, 0x31, 0xc0}, // xor %eax, %eax
			[]byte{0x66, 0x66, 0x48, 0x31, 0xc0}) // the same before 6.2
	} else if known && name == "__WARN_trap" {
		out = append(out, []byte{0x67, 0x48, 0x0f, 0xb9, 0x3a}) // UD1 (%edx), %rdi, from 6.19 on
	}
	op, target, ok := branchTarget(seen, at)
	if !ok || len(seen) != 5 {
		return out
	}
	target = x.env.behindStaticCounter(op, target, function, known)
	if known && function == target && x.env.Dispatches(key, target) && (op == opJump) == tail {
		x.note(at, seen, "static call to BPF's dispatcher")
		out = append(out, seen)
	}
	if (op == opJump) == tail && x.callsElsewhere(at, seen, function, target) {
		out = append(out, seen)
	}
	if x.calls(function, known, target) && (op == opJump) == tail || none && tail && op == opJump && x.env.returnThunk(target) {
		out = append(out, seen)
	}
	return out
}

// calls reports whether a static call's site may call target: what its key has,
// where that is known.
func (x *explainer) calls(function uint64, known bool, target uint64) bool {
	return (!known || function == target) && x.env.approved(target)
}

// callsElsewhere reports whether a static call's site goes where its key does, in the
// area of modules, and notes that nothing can be executed there, or that it is the
// text of a module that is not compared, or came to lie where another one was.
func (x *explainer) callsElsewhere(at uint64, seen []byte, function, target uint64) bool {
	if function != target {
		return false
	}
	if t := x.env.textOf(target); t != nil {
		if x.env.orphan == "" || x.text.Name != x.env.orphan || t.Name == "" || t.Name == x.env.orphan || t.symbols.Start(target-t.slide) {
			return false
		}
		x.note(at, seen, "static call into "+t.Name+", which lies where the module was that it went to")
		x.out.Taken[t.Name] = true
		return true
	}
	if x.env.facts.Gone[target] {
		x.note(at, seen, "static call into a module that was unloaded: there is nothing to be executed")
		return true
	}
	for _, area := range x.env.uncompared {
		if target-uint64(area.start) < area.size {
			x.note(at, seen, "static call into "+area.name+", which is not compared")
			x.out.Uncompared[area.name] = true
			return true
		}
	}
	return false
}

// keyOf returns the address of a static call's key, 0 if nothing tells it. A
// trampoline is named after its key.
func (e *Expected) keyOf(t *Text, s site) uint64 {
	if s.kind == siteStaticCall {
		return e.staticKey(t.obj.keys[s.arg] + t.slide)
	}
	at := uint64(t.Start) + uint64(s.off) - t.slide
	name, start, ok := t.symbols.Lookup(at)
	name, is := strings.CutPrefix(name, "__SCT__")
	if !ok || !is || start != at {
		return 0
	}
	key, ok := t.symbols.Address("__SCK__" + name)
	if !ok {
		return 0
	}
	return key + t.slide
}

// staticKey returns the address of a static call's key. Where the key is not
// exported, modules name the trampoline instead and the kernel finds the key at
// load time (static_call_add_module).
func (e *Expected) staticKey(at uint64) uint64 {
	if name, ok := strings.CutPrefix(e.nameAt(at), "__SCT__"); ok {
		if key, ok := e.image.Symbols.Address("__SCK__" + name); ok {
			return key + e.slide
		}
	}
	return at
}

// jump: a static branch is a jump or a NOP (arch/x86/kernel/jump_label.c).
func (x *explainer) jump(target, at uint64, seen []byte) [][]byte {
	if isAtomicNop(seen) {
		return [][]byte{seen}
	}
	if len(seen) == 2 {
		return [][]byte{nop(2), {opShort, byte(target + x.slide - at - 2)}}
	}
	return [][]byte{nop(5), branch(opJump, at, target+x.slide)}
}

// trace: the call to __fentry__ at a function's start is a NOP until something
// traces the function.
func (x *explainer) trace(at uint64, seen []byte) [][]byte {
	if isAtomicNop(seen) {
		return [][]byte{seen}
	}
	out := [][]byte{nop(5)}
	op, target, ok := branchTarget(seen, at)
	if ok && op == opJump && x.env.dispatched(at, target) {
		x.note(at, seen, "jump to BPF's dispatcher")
		return append(out, seen)
	}
	if image, is := x.env.bpfImage(target, "bpf_trampoline_"); ok && op == opJump && is {
		x.note(at, seen, "traced by BPF: jump to "+image.Name) // as of 7.2, where it calls the function itself
		return append(out, seen)
	}
	if !ok || op != opCall {
		return out
	}
	if by, ok := x.env.tracer(target); ok {
		x.note(at, seen, by)
		out = append(out, seen)
	}
	return out
}

// tracer: in ftrace's own entry the call to ftrace_stub goes to whoever traces
// (update_ftrace_func).
func (x *explainer) tracer(at uint64, seen []byte) [][]byte {
	if isAtomicNop(seen) {
		return [][]byte{seen}
	}
	_, target, ok := branchTarget(seen, at)
	if !ok || !x.env.approved(target) {
		return nil
	}
	x.note(at, seen, "traced by ftrace: its entry calls "+x.env.symbol(target))
	return [][]byte{seen}
}

func nops(n int) []byte {
	var out []byte
	for ; n > 8; n -= 8 {
		out = append(out, nop(8)...)
	}
	return append(out, nop(n)...)
}

// mergeNops returns code with runs of one-byte NOPs as seen has them, where that
// does nothing either.
func mergeNops(code, seen []byte) []byte {
	out := bytes.Clone(code)
	for i := 0; i < len(code); i++ {
		end := i
		for end < len(code) && code[end] == opNop {
			end++
		}
		if end > i+1 && isPadding(seen[i:end]) {
			copy(out[i:end], seen[i:end])
		}
		i = max(i, end)
	}
	return out
}
