package kernel

import "github.com/cilium/ebpf/btf"

// Types are the types of a kernel or of a module on top of it.
type Types struct {
	Spec *btf.Spec
}

// Offset returns the offset of a member, in bytes, such as "task_struct",
// "thread", "sp". Members of anonymous structures are found by their own name.
func (t *Types) Offset(structure string, path ...string) (uint64, error) { return 0, ErrNoTypes }

// Size returns the size of a structure in bytes.
func (t *Types) Size(structure string) (uint64, error) { return 0, ErrNoTypes }
