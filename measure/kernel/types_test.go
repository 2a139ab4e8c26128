package kernel

import (
	"bytes"
	"testing"

	"github.com/cilium/ebpf/btf"
)

// buildTypes makes the types of a kernel of a few structures, as its BTF has them.
func buildTypes(types ...btf.Type) (*Types, error) {
	b, err := btf.NewBuilder(types, nil)
	if err != nil {
		return nil, err
	}
	raw, err := b.Marshal(nil, nil)
	if err != nil {
		return nil, err
	}
	spec, err := btf.LoadSpecFromReader(bytes.NewReader(raw))
	return &Types{Spec: spec}, err
}

func typesOf(t testing.TB, types ...btf.Type) *Types {
	t.Helper()
	out, err := buildTypes(types...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
