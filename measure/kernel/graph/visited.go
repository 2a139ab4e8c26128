package graph

import "math/bits"

// visited is a set of objects: addresses with types. It is what a walk asks
// most often, several times for each object, hence no map.
type visited struct {
	slots []visit // a power of two; the zero value is free
	used  int
}

type visit struct {
	at  uint64
	typ *Type
}

// newVisited makes a set for half of so many objects; it grows.
func newVisited(slots int) *visited { return &visited{slots: make([]visit, slots)} }

func (v *visited) clear() {
	clear(v.slots)
	v.used = 0
}

// find returns the slot of an object, or the free one for it.
func (v *visited) find(at uint64, t *Type) int {
	mask := len(v.slots) - 1
	// Multiplicative hashing (Knuth, TAOCP vol. 3, 6.4).
	hash := (at>>3 ^ uint64(t.number)<<40) * 0x9e37_79b9_7f4a_7c15
	for i := int(hash >> (64 - bits.Len(uint(mask)))); ; i = (i + 1) & mask {
		if s := &v.slots[i]; s.typ == nil || s.at == at && s.typ == t {
			return i
		}
	}
}

func (v *visited) has(at uint64, t *Type) bool { return v.slots[v.find(at, t)].typ != nil }

// add adds an object and reports whether it was not there.
func (v *visited) add(at uint64, t *Type) bool {
	i := v.find(at, t)
	if v.slots[i].typ != nil {
		return false
	}
	v.slots[i] = visit{at, t}
	if v.used++; v.used*2 > len(v.slots) {
		v.grow()
	}
	return true
}

func (v *visited) grow() {
	old := v.slots
	v.slots = make([]visit, 2*len(old))
	for _, s := range old {
		if s.typ != nil {
			v.slots[v.find(s.at, s.typ)] = s
		}
	}
}
