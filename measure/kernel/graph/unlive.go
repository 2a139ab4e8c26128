package graph

import (
	"cmp"
	"slices"

	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// unlive tells which objects are of modules that are being loaded or unloaded, when
// it is made.
//
// One that is unloaded, or could not be loaded, is on the list for some time after
// the kernel has freed what it had made for it, and keeps pointers to that:
// modinfo_attrs, notes_attrs, holders_dir and mkobj.drivers_dir are not cleared,
// sect_attrs and mkobj.mp only afterwards (mod_sysfs_teardown, called by free_module
// and load_module: kernel/module/main.c and sysfs.c, 6.1; kernel/module.c, 5.10). One
// that is being loaded is on the list before its tables are relocated. So what looks
// wrong and was reached through one says nothing. Which they are is the target's to
// say: it is no reason to leave anything out in silence.
type unlive struct {
	profile *kernel.Profile
	state   mem.Virt      // of struct module
	areas   []kernel.Area // by where they begin; none within another
}

func newUnlive(p *kernel.Profile, modules []kernel.LoadedModule) (*unlive, error) {
	state, err := p.Types.Offset("module", "state")
	if err != nil {
		return nil, err
	}
	size, err := p.Types.Size("module")
	if err != nil {
		return nil, err
	}
	u := &unlive{profile: p, state: mem.Virt(state)}
	for i := range modules {
		if m := &modules[i]; !u.live(m.At) {
			u.areas = append(append(u.areas, kernel.Area{Start: m.At, Size: size}), m.Areas...)
		}
	}
	slices.SortFunc(u.areas, func(a, b kernel.Area) int {
		return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(b.Size, a.Size))
	})
	end := mem.Virt(0)
	u.areas = slices.DeleteFunc(u.areas, func(a kernel.Area) bool {
		within := a.End() <= end
		end = max(end, a.End())
		return within
	})
	return u, nil
}

// live reports whether a module's state is MODULE_STATE_LIVE (include/linux/module.h).
func (u *unlive) live(at mem.Virt) bool {
	state, err := u.profile.Space.U32(at + u.state)
	return err == nil && state == 0
}

// has reports whether an object is such a module, or lies in one's memory.
func (u *unlive) has(n *node) bool {
	at := mem.Virt(n.at)
	i, _ := slices.BinarySearchFunc(u.areas, at, func(a kernel.Area, at mem.Virt) int {
		if a.End() > at {
			return 1
		}
		return -1
	})
	return i < len(u.areas) && u.areas[i].Contains(at) || n.typ.Name == "module" && !u.live(at)
}
