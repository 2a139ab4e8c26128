package qemu

import "github.com/plumbline-sec/plumbline/measure/mem"

// Touched implements [mem.Toucher]: the parts of shared files that hold data
// (lseek(2), SEEK_DATA), in blocks of 2 MiB. Private RAM counts as touched
// throughout.
func (r *RAM) Touched() ([]mem.Extent, error) {
	var out []mem.Extent
	for _, p := range r.parts {
		if !p.sparse {
			out = append(out, p.Extent)
			continue
		}
		var err error
		if out, err = p.touched(out); err != nil {
			return nil, err
		}
	}
	return out, nil
}
