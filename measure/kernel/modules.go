package kernel

import "github.com/plumbline-sec/plumbline/measure/mem"

// LoadedModule is a module as the kernel's own list shows it.
type LoadedModule struct {
	Name     string
	At       mem.Virt // of its struct module
	BuildID  string   // GNU build-id, lower-case hex; empty if the kernel does not keep it
	Live     bool     // state is MODULE_STATE_LIVE
	Areas    []Area
	Sections []ModuleSection // as /sys/module/NAME/sections has them; empty if the kernel does not keep them
}

// Area is a range of a module's memory that has one kind.
type Area struct {
	Kind  AreaKind
	Start mem.Virt
	Size  uint64 // bytes
}

// AreaKind is what an [Area] holds.
type AreaKind string

// Kinds of areas. Kernels up to 6.3 keep them in one block each for the core
// and the init part (struct module_layout); since 6.4 each has its own
// allocation (struct module_memory).
const (
	AreaText        AreaKind = "text"
	AreaRodata      AreaKind = "rodata"
	AreaROAfterInit AreaKind = "ro-after-init"
	AreaData        AreaKind = "data"
	AreaInit        AreaKind = "init" // freed once the module is live
)

// ModuleSection is a section of a module's file and where it was loaded.
type ModuleSection struct {
	Name string
	Addr mem.Virt
}

// Area returns the module's area of a kind.
func (m *LoadedModule) Area(kind AreaKind) (Area, bool) {
	for _, a := range m.Areas {
		if a.Kind == kind {
			return a, true
		}
	}
	return Area{}, false
}

// Modules lists the loaded modules, in the order of the kernel's list.
func (p *Profile) Modules() ([]LoadedModule, error) { return nil, ErrNoTypes }
