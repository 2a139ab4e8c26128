package graph

import "encoding/binary"

// contained queues the elements of a container.
func (w *walker) contained(i int32, n *node, f *field) {
	h := f.held
	w.at, w.held = i, f
	head := n.at + uint64(f.at)
	visit := func(at uint64, index int) {
		if w.steps++; !w.exhausted() {
			w.tick()
			w.element(i, n, f, at, index)
		}
	}
	switch h.kind {
	case list:
		w.linked(head, head, 0, h.link, visit)
	case hlist:
		w.linked(head, 0, 1, h.link, visit)
	case chain:
		w.linked(head, 0, 0, h.link, visit)
	case tree:
		w.tree(head, h.link, visit)
	case xarray:
		w.xarray(head, visit)
	case maple:
		w.maple(head, visit)
	case pointers:
		base, err := w.u64(head)
		if err == nil && base != 0 {
			w.pointers(base, w.count(n, f, base, 8), visit)
		}
	case filling:
		base, err := w.u64(head)
		if room := w.areas.room(base); err == nil && room <= maxFilling {
			w.pointers(base, room/8, visit)
		} else if err == nil && base != 0 {
			w.cut("arrays that are no objects of the allocator")
		}
	case inPlace:
		for k := range w.count(n, f, head, h.elem.Size) {
			if w.exhausted() {
				break
			}
			visit(head+k*h.elem.Size, int(k))
		}
	case relative:
		base, err := w.u64(head)
		if err == nil && base != 0 {
			w.relative(base, w.count(n, f, base, 4), visit)
		}
	case terminated:
		w.terminated(head, h.elem.Size, visit)
	}
}

// exhausted reports whether the walk has looked at all the elements it may.
func (w *walker) exhausted() bool { return w.steps > w.limits.elements || w.err != nil }

// cut notes that a container was not walked to its end, and which was the first.
func (w *walker) cut(why string) {
	if w.why[why]++; w.why[why] == 1 {
		w.example[why] = w.path(w.at, w.held.name)
	}
}

// count reads the number of elements of an array that starts at an address. An
// array in an object of the allocator ends with the object.
func (w *walker) count(n *node, f *field, at, size uint64) uint64 {
	count, err := w.u32(n.at + uint64(int64(f.at)+f.held.count))
	if err != nil || int(count) > w.limits.elements/2 || uint64(count)*size > w.areas.room(at) {
		w.cut("arrays with an impossible number of elements")
		return 0
	}
	return uint64(count)
}

// maxFilling bounds an object of the allocator that is an array, in bytes: slabs
// have none that are larger than two pages.
const maxFilling = 8192

// linked follows a list of links until it comes to end, or to a value with the
// low bit set (include/linux/list_nulls.h). mask is cleared of the first link:
// the low bit of a struct hlist_bl_head is a lock.
func (w *walker) linked(head, end, mask, link uint64, visit func(uint64, int)) {
	at, err := w.u64(head)
	at &^= mask
	slow := at // of Brent's search for a cycle
	for k, power := 0, 1; err == nil && at != end && at != 0 && at&1 == 0; k++ {
		if !high(at) || k == w.limits.elements/2 || w.exhausted() {
			w.cut("lists that were cut")
			return
		}
		visit(at-link, k)
		at, err = w.u64(at)
		if at == slow && at != end && at != 0 {
			w.cut("lists with a cycle")
			return
		}
		if k == power {
			slow, power = at, power*2
		}
	}
	if err != nil {
		w.cut("lists that were cut")
	}
}

// maxTree bounds the depth of trees: a balanced one of 2^32 has 64 levels.
const maxTree = 64

// tree visits a red-black tree in order (include/linux/rbtree_types.h, struct
// rb_node: the parent with the colour, right, left).
func (w *walker) tree(head, link uint64, visit func(uint64, int)) {
	k := 0
	var walk func(at, parent uint64, depth int)
	walk = func(at, parent uint64, depth int) {
		if at == 0 {
			return
		}
		raw, err := w.read(at, 24)
		if err != nil || depth == maxTree || w.exhausted() || binary.LittleEndian.Uint64(raw)&^3 != parent {
			w.cut("trees that were cut")
			return
		}
		right, left := binary.LittleEndian.Uint64(raw[8:]), binary.LittleEndian.Uint64(raw[16:])
		walk(left, at, depth+1)
		visit(at-link, k)
		k++
		walk(right, at, depth+1)
	}
	root, err := w.u64(head)
	if err == nil {
		walk(root, 0, 0)
	}
}

// pointers visits the elements of an array of pointers.
func (w *walker) pointers(base, count uint64, visit func(uint64, int)) {
	for k := range count {
		at, err := w.u64(base + 8*k)
		if err != nil {
			w.cut("arrays in memory that could not be read")
			return
		}
		if at != 0 {
			visit(at, int(k))
		}
		if w.exhausted() {
			return
		}
	}
}

// maxTerminated bounds arrays that end with a zero.
const maxTerminated = 4096

func (w *walker) terminated(head, size uint64, visit func(uint64, int)) {
	at, err := w.u64(head)
	if err != nil || at == 0 {
		return
	}
	for k := range maxTerminated {
		first, err := w.u64(at)
		switch {
		case err != nil:
			w.cut("arrays in memory that could not be read")
			return
		case first == 0:
			return
		}
		visit(at, k)
		at += size
	}
	w.cut("arrays without an end")
}

// xarray visits the pointers of an xarray (include/linux/xarray.h: entries with
// bit 0 are numbers, with bit 1 nodes or marks).
func (w *walker) xarray(head uint64, visit func(uint64, int)) {
	slots, err := w.profile.Types.Member("xa_node", "slots")
	if err != nil || slots.Size > 4096 {
		w.cut("xarrays of an unknown kind")
		return
	}
	k := 0
	var walk func(entry uint64, depth int)
	walk = func(entry uint64, depth int) {
		switch {
		case entry == 0 || entry&1 != 0 || entry&3 == 2 && entry <= 4096:
			return
		case depth > 12 || w.exhausted():
			w.cut("trees that were cut")
			return
		case entry&3 == 0:
			visit(entry, k)
			k++
			return
		}
		raw, err := w.read(entry&^3+slots.Offset, slots.Size)
		if err != nil {
			w.cut("trees that were cut")
			return
		}
		raw = append([]byte(nil), raw...)
		for ; len(raw) >= 8; raw = raw[8:] {
			k++
			w.steps++
			walk(binary.LittleEndian.Uint64(raw), depth+1)
		}
	}
	if entry, err := w.u64(head); err == nil {
		walk(entry, 0)
	}
}

// Kinds of a maple tree's nodes (include/linux/maple_tree.h, enum maple_type),
// in bits 3 to 6 of a pointer to one.
const (
	mapleLeaf   = 1
	mapleRange  = 2
	mapleARange = 3
)

// maple visits the entries of a maple tree.
func (w *walker) maple(head uint64, visit func(uint64, int)) {
	k := 0
	var walk func(entry, last uint64, depth int)
	walk = func(entry, last uint64, depth int) {
		k++
		w.steps++
		if depth > 31 || w.exhausted() {
			w.cut("trees that were cut")
			return
		}
		kind, node := entry>>3&0xf, entry&^0xff
		raw, err := w.read(node, 256)
		if err != nil || kind != mapleLeaf && kind != mapleRange && kind != mapleARange {
			w.cut("trees that were cut")
			return
		}
		raw = append([]byte(nil), raw...)
		slots := uint64(16) // MAPLE_RANGE64_SLOTS
		if kind == mapleARange {
			slots = 10 // MAPLE_ARANGE64_SLOTS
		}
		pivots := slots - 1
		for s := range slots {
			pivot := last
			if s < pivots {
				if pivot = binary.LittleEndian.Uint64(raw[8+8*s:]); pivot == 0 && s > 0 {
					pivot = last
				}
			}
			child := binary.LittleEndian.Uint64(raw[8+8*pivots+8*s:])
			switch {
			case child == 0 || child&3 == 2 && child <= 4096:
			case kind != mapleLeaf:
				walk(child, pivot, depth+1)
			case child&3 == 0:
				visit(child, k)
				k++
			}
			if pivot >= last {
				return
			}
		}
	}
	root, err := w.u64(head)
	switch {
	case err != nil || root == 0:
	case root&3 == 2 && root > 4096: // a node; else a single entry
		walk(root, ^uint64(0), 0)
	case root&3 == 0:
		visit(root, 0)
	}
}
