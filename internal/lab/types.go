package lab

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/cilium/ebpf/btf"
)

// maxBTF bounds the kernel's type information; it is 4 to 7 MiB.
const maxBTF = 64 << 20

// offset returns the byte offset of a member of a kernel structure, by the
// type information in the kernel's own memory. A path goes into structures
// within: "mod_kallsyms.list".
func (c *change) offset(ctx context.Context, structure, path string) (uint64, error) {
	if c.types == nil {
		if err := c.loadTypes(ctx); err != nil {
			return 0, fmt.Errorf("kernel types: %w", err)
		}
	}
	var at *btf.Struct
	if err := c.types.TypeByName(structure, &at); err != nil {
		return 0, err
	}
	var current btf.Type = at
	var bits btf.Bits
	for name := range strings.SplitSeq(path, ".") {
		member, offset, ok := findMember(current, name)
		if !ok {
			return 0, fmt.Errorf("struct %s has no member %s", structure, path)
		}
		bits += offset
		current = member
	}
	return uint64(bits.Bytes()), nil
}

// findMember looks for a member by name, in nameless members too.
func findMember(in btf.Type, name string) (btf.Type, btf.Bits, bool) {
	var members []btf.Member
	switch t := btf.UnderlyingType(in).(type) {
	case *btf.Struct:
		members = t.Members
	case *btf.Union:
		members = t.Members
	}
	for _, m := range members {
		if m.Name == name {
			return m.Type, m.Offset, true
		}
		if m.Name == "" {
			if found, offset, ok := findMember(m.Type, name); ok {
				return found, m.Offset + offset, true
			}
		}
	}
	return nil, 0, false
}

func (c *change) loadTypes(ctx context.Context) error {
	at, err := c.symbols(ctx, "__start_BTF", "__stop_BTF")
	if err != nil {
		return err
	}
	if at[1] <= at[0] || at[1]-at[0] > maxBTF {
		return fmt.Errorf("type information from %#x to %#x", at[0], at[1])
	}
	mem, err := c.memory(ctx)
	if err != nil {
		return err
	}
	raw := make([]byte, at[1]-at[0])
	if err := mem.read(at[0], raw); err != nil {
		return err
	}
	c.types, err = btf.LoadSpecFromReader(bytes.NewReader(raw))
	return err
}

// size returns the size of a kernel structure in bytes; offset has loaded the
// types.
func (c *change) size(structure string) (int, error) {
	var at *btf.Struct
	if err := c.types.TypeByName(structure, &at); err != nil {
		return 0, err
	}
	return int(at.Size), nil
}
