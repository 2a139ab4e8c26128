package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// ErrNoModule means that a tree has no file for a module.
var ErrNoModule = errors.New("no file for this module")

// ModuleTree is a lib/modules/VERSION directory with the expected .ko files. It
// reads a file when it is first asked for and is safe for concurrent use.
//
// A module may have several files: what was built on the machine (DKMS puts it into
// updates) stands beside the kernel's own of that name. The build-id of the one that
// is loaded tells which it is.
type ModuleTree struct {
	dir   string
	paths map[string][]string // by module name, in the order of their names

	mu     sync.Mutex
	loaded map[string]*ModuleFile // by path
}

// maxModuleFiles bounds a tree: Debian's generic kernels have 4,000.
const maxModuleFiles = 100_000

// OpenModules lists the modules under a directory. Symbolic links are not
// followed.
func OpenModules(dir string) (*ModuleTree, error) {
	t := &ModuleTree{dir: dir, paths: make(map[string][]string), loaded: make(map[string]*ModuleFile)}
	files := 0
	err := fs.WalkDir(os.DirFS(dir), ".", func(at string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name, ok := moduleName(entry.Name()); ok && entry.Type().IsRegular() {
			if files++; files > maxModuleFiles {
				return fmt.Errorf("%w: over %d modules", ErrTooLarge, maxModuleFiles)
			}
			t.paths[name] = append(t.paths[name], at)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list modules under %s: %w", dir, err)
	}
	if len(t.paths) == 0 {
		return nil, fmt.Errorf("list modules under %s: %w", dir, ErrNoModule)
	}
	return t, nil
}

// moduleName turns a file's name into what the kernel calls the module.
func moduleName(file string) (string, bool) {
	base, compression, _ := strings.Cut(path.Base(file), ".ko")
	switch compression {
	case "", ".xz", ".zst", ".gz":
	default:
		return "", false
	}
	if base == file {
		return "", false
	}
	return strings.ReplaceAll(base, "-", "_"), true
}

// Module returns a module's file, [ErrNoModule] if the tree has none and
// [ErrOtherBuild] if it has only those of other builds than buildID. An empty
// buildID takes any, the last first: updates before kernel.
func (t *ModuleTree) Module(name, buildID string) (*ModuleFile, error) {
	paths := t.paths[name]
	if len(paths) == 0 {
		return nil, fmt.Errorf("module %s: %w in %s", name, ErrNoModule, t.dir)
	}
	var unread, other error
	for _, at := range slices.Backward(paths) {
		m, err := t.open(at)
		switch {
		case err != nil && buildID == "":
			return nil, err
		case err != nil:
			unread = err
		case buildID == "" || m.BuildID == buildID:
			return m, nil
		default:
			other = fmt.Errorf("module %s: %w: %s, not %s", name, ErrOtherBuild, m.BuildID, buildID)
		}
	}
	return nil, cmp.Or(unread, other)
}

func (t *ModuleTree) open(at string) (*ModuleFile, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if m := t.loaded[at]; m != nil {
		return m, nil
	}
	m, err := OpenModule(filepath.Join(t.dir, at))
	if err != nil {
		return nil, err
	}
	t.loaded[at] = m
	return m, nil
}
