package xen

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// exceptionTables finds __ex_table and __pre_ex_table.
func (img *Image) exceptionTables() ([]Table, error) {
	var out []Table
	for _, name := range []string{"ex_table", "pre_ex_table"} {
		from, to, ok := img.between("__start___"+name, "__stop___"+name)
		if !ok || (to-from)%8 != 0 || from < img.bounds.Rodata || to > img.bounds.RodataEnd {
			return nil, fmt.Errorf("%w: %s at [%v, %v)", ErrLayout, name, from, to)
		}
		t, err := img.exceptionTable(name, from, int(to-from)/8)
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

// executable reports whether an address lies in text, that of boot included.
func (img *Image) executable(at mem.Virt) bool {
	if img.inText(at) {
		return true
	}
	end, ok := img.Symbols.Address("_einittext")
	return ok && at >= img.bounds.RodataEnd && at < mem.Virt(end)
}

func (img *Image) exceptionTable(name string, start mem.Virt, n int) (Table, error) {
	t := Table{Name: name, Start: start}
	b := img.At(start, n*8)
	if b == nil {
		return t, fmt.Errorf("%w: %s at %v", ErrLayout, name, start)
	}
	t.Pairs = Pairs(start, b)
	for _, p := range t.Pairs {
		if !img.executable(p[0]) || !img.executable(p[1]) {
			return t, fmt.Errorf("%w: %s leads from %v to %v", ErrLayout, name, p[0], p[1])
		}
	}
	slices.SortFunc(t.Pairs, func(a, b [2]mem.Virt) int { return cmp.Compare(a[0], b[0]) })
	return t, nil
}

// Pairs decodes an exception table at an address, in the order in which it is.
func Pairs(start mem.Virt, b []byte) [][2]mem.Virt {
	out := make([][2]mem.Virt, 0, len(b)/8)
	for i := 0; i+8 <= len(b); i += 8 {
		at := start + mem.Virt(i)
		out = append(out, [2]mem.Virt{at + mem.Virt(int64(int32(le32(b[i:])))), at + 4 + mem.Virt(int64(int32(le32(b[i+4:]))))})
	}
	return out
}

// Exceptions returns the exception tables, as Xen sorts them.
func (img *Image) Exceptions() []Table { return img.exceptions }
