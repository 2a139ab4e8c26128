package check

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// linux.modules: the kernel's list of modules holds together, each has memory
// where modules lie, and the other views the kernel has of its modules, their
// objects in sysfs, the tree that finds them by address, the list of their bug
// tables, and what lies in the memory of modules and looks like one, show none that
// the list does not.
//
// Proves: that no module hides in one view and shows in another. Trusts: that it
// did not take itself out of all of them; its code is then executable memory
// without an account, which linux.pagetables finds. Other checks rely on the
// facts of this one for where approved code lies.
const modulesName = "linux.modules"

func modulesCheck() check {
	return check{name: modulesName, collect: collectModules, judge: judgeModules}
}

// modulesData are the facts of linux.modules.
type modulesData struct {
	Kernel  textRange    `json:"kernel"` // [_stext, _etext) as the target says
	Modules []moduleFact `json:"modules"`
	Broken  string       `json:"broken,omitempty"` // why the list ends early
	// Hidden are modules that another view shows and the list does not.
	Hidden []hiddenFact `json:"hidden,omitempty"`
	Blind  []string     `json:"blind,omitempty"` // views that could not be read, and why
}

// hiddenFact is a module that the list lacks.
type hiddenFact struct {
	Name string  `json:"name"`
	At   address `json:"at"`
	View string  `json:"view"` // which shows it
}

type moduleFact struct {
	Name     string        `json:"name"`
	At       address       `json:"at"` // of its struct module
	BuildID  string        `json:"build_id,omitempty"`
	Live     bool          `json:"live"`
	State    uint32        `json:"state,omitempty"`   // enum module_state
	Dormant  bool          `json:"dormant,omitempty"` // it is being loaded, and nothing of its memory can be executed
	PerCPU   address       `json:"per_cpu,omitempty"` // offset of its per-CPU data
	Areas    []areaFact    `json:"areas"`
	Sections []sectionFact `json:"sections,omitempty"`
	// Points is how many tracepoints it says it has, PointTable where their table is.
	Points     uint32  `json:"tracepoints,omitempty"`
	PointTable address `json:"tracepoint_table,omitempty"`
}

type areaFact struct {
	Kind  kernel.AreaKind `json:"kind"`
	Start address         `json:"start"`
	Size  uint64          `json:"size"` // bytes
}

type sectionFact struct {
	Name string  `json:"name"`
	At   address `json:"at"`
}

// asleep says that there is no text of the module yet that could be judged.
func (m *moduleFact) asleep() bool { return m.Dormant && !m.Live }

// unplaced says that the module is not live and does not say where its sections are:
// what follows for that from its file holds its text, which may not be what it is to be.
func (m *moduleFact) unplaced() bool { return !m.Live && len(m.Sections) == 0 }

// text reports whether an address lies in the module's text.
func (m *moduleFact) text(a address) bool {
	for _, area := range m.Areas {
		if area.Kind == kernel.AreaText && a >= area.Start && uint64(a-area.Start) < area.Size {
			return true
		}
	}
	return false
}

// holds reports whether an address lies in any memory of the module.
func (m *moduleFact) holds(a address) bool {
	return slices.ContainsFunc(m.Areas, func(area areaFact) bool { return a >= area.Start && uint64(a-area.Start) < area.Size })
}

func collectModules(c *collector) (any, measure.Coverage, error) {
	var data modulesData
	for name, into := range map[string]*address{"_stext": &data.Kernel.Start, "_etext": &data.Kernel.End} {
		at, ok := c.profile.Symbol(name)
		if !ok {
			return nil, measure.Coverage{}, fmt.Errorf("%w: no %s", kernel.ErrNoSymbols, name)
		}
		*into = address(at)
	}
	if c.modulesErr != nil {
		data.Broken = c.modulesErr.Error()
	}
	for _, m := range c.modules {
		fact := factOf(m)
		fact.Dormant = c.dormant[m.At]
		data.Modules = append(data.Modules, fact)
	}
	c.hiddenModules(&data)
	return data, measure.Coverage{Objects: int64(len(c.modules))}, nil
}

// A module that is unloaded leaves the other views some time after the list, and
// its memory a grace period of RCU after that. So long a difference must last: each
// comparison has it, and it is there still when the target has come so far as to
// have freed what it took off the list ([grace]), which time does not tell of one
// that is short of processors.
const (
	hiddenAttempts = 10
	hiddenPause    = 40 * time.Millisecond
)

var errUnfreed = errors.New("a module left the list, and the target did not get as far as to free it")

// moduleView is where modules show as well as on their list.
type moduleView struct {
	name string
	read func() ([]mem.Virt, error)
}

// hiddenModules compares the other views with the list.
func (c *collector) hiddenModules(data *modulesData) {
	views := []moduleView{{"the objects in sysfs", c.profile.ModuleObjects}, {"the tree of addresses", c.profile.ModuleTree},
		{"the list of bug tables", c.profile.ModuleBugs}, {"memory", c.profile.ModulesInMemory}}
	hidden, errs := make([]map[address]hiddenFact, len(views)), make([]error, len(views))
	for i, view := range views {
		hidden[i], errs[i] = c.stillHidden(view, nil)
	}
	var g grace
	all := make(map[address]hiddenFact)
	for _, found := range hidden {
		maps.Copy(all, found)
	}
	if len(all) > 0 {
		c.pass(&g)
		c.awaitFreed(all)
	}
	for i, view := range views {
		if len(hidden[i]) > 0 {
			hidden[i], errs[i] = c.stillHidden(view, hidden[i])
		}
		// What stands still, such as a dump, never gets there: it is judged as it is.
		if len(hidden[i]) > 0 && g.moved && !g.passed() {
			hidden[i], errs[i] = nil, errUnfreed
		}
		errs[i] = errors.Join(errs[i], c.dropUnfreed(hidden[i]))
		for _, at := range slices.Sorted(maps.Keys(hidden[i])) {
			data.Hidden = append(data.Hidden, hidden[i][at])
		}
		if errs[i] != nil {
			data.Blind = append(data.Blind, errs[i].Error())
		}
	}
}

// stillHidden returns those in a view that each comparison lacks on the list, and
// of those that were found before if there are any.
func (c *collector) stillHidden(view moduleView, before map[address]hiddenFact) (map[address]hiddenFact, error) {
	left := before
	var err error
	for range hiddenAttempts {
		var found map[address]hiddenFact
		if found, err = c.missingFromList(view); err == nil {
			if left == nil {
				left = found
			}
			maps.DeleteFunc(left, func(at address, _ hiddenFact) bool { _, again := found[at]; return !again })
			if len(left) == 0 {
				return nil, nil
			}
		}
		select {
		case <-c.ctx.Done():
			return left, errors.Join(err, c.ctx.Err())
		case <-time.After(hiddenPause):
		}
	}
	return left, err
}

func (c *collector) missingFromList(view moduleView) (map[address]hiddenFact, error) {
	shown, err := view.read()
	if err != nil {
		return nil, err
	}
	list, err := c.profile.Modules()
	if err != nil {
		return nil, err
	}
	out := make(map[address]hiddenFact)
	for _, at := range shown {
		listed := func(m kernel.LoadedModule) bool { return m.At == at }
		if slices.ContainsFunc(list, listed) || slices.ContainsFunc(c.modules, listed) {
			continue
		}
		name, err := c.profile.ModuleName(at)
		if err != nil {
			name = "?"
		}
		out[address(at)] = hiddenFact{Name: name, At: address(at), View: view.name}
	}
	return out, nil
}

func factOf(m kernel.LoadedModule) moduleFact {
	fact := moduleFact{Name: m.Name, At: address(m.At), BuildID: m.BuildID, Live: m.Live, State: m.State, PerCPU: address(m.PerCPU),
		Points: m.Tracepoints, PointTable: address(m.TracepointTable)}
	for _, a := range m.Areas {
		fact.Areas = append(fact.Areas, areaFact{a.Kind, address(a.Start), a.Size})
	}
	for _, s := range m.Sections {
		fact.Sections = append(fact.Sections, sectionFact{s.Name, address(s.Addr)})
	}
	return fact
}

func judgeModules(_ *judging, raw json.RawMessage, out *measure.Check) error {
	var data modulesData
	if err := decode(raw, &data); err != nil {
		return err
	}
	seen := make(map[string]bool)
	for _, m := range data.Modules {
		if seen[m.Name] {
			out.Findings = append(out.Findings, measure.Finding{
				Address: m.At.String(), Symbol: m.Name,
				Explanation: "two modules on the list have this name",
			})
		}
		seen[m.Name] = true
	}
	for _, h := range data.Hidden {
		out.Findings = append(out.Findings, measure.Finding{
			Address: h.At.String(), Symbol: h.Name,
			Explanation: "a module that " + h.View + " has and the list of modules does not",
		})
	}
	if len(data.Blind) > 0 {
		return errors.New("a view of the modules could not be read: " + data.Blind[0])
	}
	if data.Broken != "" {
		return fmt.Errorf("the list could not be read to its end: %s", data.Broken)
	}
	return nil
}

// module returns a loaded module by name.
func (c *collector) module(name string) (*kernel.LoadedModule, error) {
	for i := range c.modules {
		if c.modules[i].Name == name {
			return &c.modules[i], nil
		}
	}
	if c.modulesErr != nil {
		return nil, fmt.Errorf("module %s: %w", name, c.modulesErr)
	}
	return nil, fmt.Errorf("module %s is not loaded", name)
}

// moduleSymbol returns the address of a module's symbol and its size in bytes.
func (c *collector) moduleSymbol(module, name string) (mem.Virt, uint64, error) {
	m, err := c.module(module)
	if err != nil {
		return 0, 0, err
	}
	symbols, err := c.moduleSymbols(m)
	if err != nil {
		return 0, 0, err
	}
	at, ok := symbols.Address(name)
	if !ok || !m.Holds(mem.Virt(at)) {
		return 0, 0, fmt.Errorf("module %s has no symbol %s", module, name)
	}
	return mem.Virt(at), symbols.Size(name), nil
}
