package kernel

import (
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// ModuleObjects returns the addresses of the modules that have an object in
// sysfs: the members of module_kset (kernel/params.c, struct module_kobject).
// Code that is built in has an object there too, without a module.
func (p *Profile) ModuleObjects() ([]mem.Virt, error) {
	head, ok := p.Symbol("module_kset")
	if !ok {
		return nil, fmt.Errorf("modules' objects: %w: no module_kset", ErrNoSymbols)
	}
	list, err1 := p.Types.Offset("kset", "list")
	entry, err2 := p.Types.Offset("kobject", "entry")
	object, err3 := p.Types.Offset("module_kobject", "kobj")
	owner, err4 := p.Types.Offset("module_kobject", "mod")
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, fmt.Errorf("modules' objects: %w", err)
	}
	kset, err := p.Space.U64(head)
	if err != nil {
		return nil, fmt.Errorf("modules' objects: %w", err)
	}
	entries, err := List(p.Space, mem.Virt(kset+list), maxModules)
	var out []mem.Virt
	for _, at := range entries {
		module, err := p.Space.U64(at - mem.Virt(entry) - mem.Virt(object) + mem.Virt(owner))
		if err != nil {
			return out, fmt.Errorf("modules' objects: %w", err)
		}
		if module != 0 {
			out = append(out, mem.Virt(module))
		}
	}
	return out, err
}

// ModuleTree returns the addresses of the modules in the tree that finds a
// module by an address in it (kernel/module/tree_lookup.c, struct
// mod_tree_root), without repetitions.
func (p *Profile) ModuleTree() ([]mem.Virt, error) {
	root, ok := p.Symbol("mod_tree")
	if !ok {
		return nil, fmt.Errorf("modules by address: %w: no mod_tree", ErrNoSymbols)
	}
	tree, err1 := p.Types.Offset("latch_tree_root", "tree")
	first, err2 := p.Types.Offset("rb_root", "rb_node")
	node, err3 := p.Types.Offset("mod_tree_node", "node")
	owner, err4 := p.Types.Offset("mod_tree_node", "mod")
	left, err5 := p.Types.Offset("rb_node", "rb_left")
	right, err6 := p.Types.Offset("rb_node", "rb_right")
	if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
		return nil, fmt.Errorf("modules by address: %w", err)
	}
	top, err := p.Space.U64(root + mem.Virt(tree+first))
	if err != nil {
		return nil, fmt.Errorf("modules by address: %w", err)
	}
	var out []mem.Virt
	seen, visited := make(map[mem.Virt]bool), 0
	for todo := []uint64{top}; len(todo) > 0; {
		at := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if at == 0 {
			continue
		}
		if visited++; visited > 8*maxModules { // a module has at most seven areas
			return out, fmt.Errorf("modules by address: %w", ErrListTooLong)
		}
		module, err := p.Space.U64(mem.Virt(at - node + owner))
		if err != nil {
			return out, fmt.Errorf("modules by address: %w", err)
		}
		if !seen[mem.Virt(module)] {
			seen[mem.Virt(module)] = true
			out = append(out, mem.Virt(module))
		}
		for _, side := range []uint64{left, right} {
			child, err := p.Space.U64(mem.Virt(at + side))
			if err != nil {
				return out, fmt.Errorf("modules by address: %w", err)
			}
			todo = append(todo, child)
		}
	}
	return out, nil
}

// ModuleName reads the name of a struct module that some view has.
func (p *Profile) ModuleName(at mem.Virt) (string, error) {
	name, err := p.Types.Offset("module", "name")
	if err != nil {
		return "", err
	}
	return p.Space.CString(at+mem.Virt(name), moduleNameLength)
}
