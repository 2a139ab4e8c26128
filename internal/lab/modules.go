package lab

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/ulikunitz/xz"
)

// moduleTree is a lib/modules/VERSION directory.
type moduleTree struct {
	dir   string
	files map[string]string // path below dir by module name
}

var errNoModule = errors.New("no such kernel module")

func openModuleTree(dir string) (*moduleTree, error) {
	tree := &moduleTree{dir: dir, files: make(map[string]string)}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		base := strings.TrimSuffix(entry.Name(), ".xz")
		if name, ok := strings.CutSuffix(base, ".ko"); ok {
			rel, err := filepath.Rel(dir, path)
			tree.files[canonicalModule(name)] = rel
			return err
		}
		return nil
	})
	return tree, err
}

func canonicalModule(name string) string { return strings.ReplaceAll(name, "-", "_") }

// read returns a module's ELF file, decompressed, its signature still behind it.
func (m *moduleTree) read(name string) ([]byte, error) {
	rel, ok := m.files[canonicalModule(name)]
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, errNoModule)
	}
	data, err := os.ReadFile(filepath.Join(m.dir, rel))
	if err != nil || !strings.HasSuffix(rel, ".xz") {
		return data, err
	}
	r, err := xz.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", rel, err)
	}
	return io.ReadAll(r)
}

// closure lists names with all they depend on, dependencies first. A module
// the kernel does not have is left out when it is built in or simply absent:
// flavours differ, and what is missing shows where it is used.
func (m *moduleTree) closure(names []string) ([]string, error) {
	var order []string
	seen := make(map[string]bool)
	var visit func(name string) error
	visit = func(name string) error {
		name = canonicalModule(name)
		if seen[name] || m.files[name] == "" {
			return nil
		}
		seen[name] = true
		data, err := m.read(name)
		if err != nil {
			return err
		}
		depends, err := moduleDepends(data)
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		for _, dep := range depends {
			if err := visit(dep); err != nil {
				return err
			}
		}
		order = append(order, name)
		return nil
	}
	for _, name := range names {
		if err := visit(name); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// moduleDepends reads the hard and soft dependencies out of .modinfo.
func moduleDepends(module []byte) ([]string, error) {
	file, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return nil, err
	}
	section := file.Section(".modinfo")
	if section == nil {
		return nil, errors.New("no .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	var depends []string
	for entry := range strings.SplitSeq(string(info), "\x00") {
		if list, ok := strings.CutPrefix(entry, "depends="); ok && list != "" {
			depends = append(depends, strings.Split(list, ",")...)
		}
		if list, ok := strings.CutPrefix(entry, "softdep=pre: "); ok {
			before, _, _ := strings.Cut(list, " post:")
			depends = append(depends, strings.Fields(before)...)
		}
	}
	return depends, nil
}
