package main

import (
	"errors"
	"io"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// congestionControl registers a congestion control of TCP whose functions are BPF
// programs; nobody uses it. The kernel takes it back when its map's only element
// is deleted.
func congestionControl() ([]io.Closer, error) {
	const table, name = "tcp_congestion_ops", "lab"
	char := &btf.Int{Name: "char", Size: 1, Encoding: btf.Char}
	pointer := &btf.Pointer{Target: &btf.FuncProto{Return: &btf.Void{}}}
	value := &btf.Struct{Name: table, Size: 16, Members: []btf.Member{
		{Name: "name", Type: &btf.Array{Index: &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed}, Type: char, Nelems: 16}}}}
	spec := &ebpf.CollectionSpec{Maps: make(map[string]*ebpf.MapSpec), Programs: make(map[string]*ebpf.ProgramSpec)}
	for _, member := range []string{"ssthresh", "cong_avoid", "undo_cwnd"} {
		value.Members = append(value.Members, btf.Member{Name: member, Type: pointer, Offset: btf.Bits(8 * value.Size)})
		value.Size += 8
		spec.Programs[member] = &ebpf.ProgramSpec{Name: "lab_" + member, Type: ebpf.StructOps, AttachTo: table + ":" + member, License: "GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}}
	}
	data := make([]byte, value.Size)
	copy(data, name)
	spec.Maps["lab_ops"] = &ebpf.MapSpec{Name: "lab_ops", Type: ebpf.StructOpsMap, Key: &btf.Int{Name: "int", Size: 4}, KeySize: 4,
		Value: value, ValueSize: value.Size, MaxEntries: 1, Contents: []ebpf.MapKV{{Key: uint32(0), Value: data}}}
	loaded, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, err
	}
	return []io.Closer{registered{loaded}}, nil
}

type registered struct{ *ebpf.Collection }

func (r registered) Close() error {
	err := r.Maps["lab_ops"].Delete(uint32(0))
	r.Collection.Close()
	return errors.Join(err)
}
