package check

import (
	"fmt"
	"slices"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// What a module runs at its start is freed when that is over, and other memory may be
// there a moment later. So it is read only if it is there still when a scan has no more
// patience, and then it is held against the module's file. What is the file's, all that
// can be executed of it, is compared; nothing else makes a finding or an excuse. Other
// mappings of it, by which it could be written, are not looked for.

// readStarts reads the code of the start of the modules that have it, if they are where
// they were when the list was read first.
func (c *collector) readStarts(data *pageTablesData) {
	for _, m := range c.later {
		same := func(then kernel.LoadedModule) bool {
			return then.At == m.At && then.Name == m.Name && slices.Equal(then.Areas, m.Areas)
		}
		if !slices.Contains(data.Starting, m.Name) || c.dormant[m.At] || !slices.ContainsFunc(c.modules, same) {
			continue
		}
		for _, a := range m.Areas {
			code := c.executable(a.Start, a.End())
			if a.Kind != kernel.AreaInit || len(code) == 0 {
				continue
			}
			// The page may be a large one, of which others have parts.
			end := min(mem.Virt(code[0].Start)+mem.Virt(code[0].Size), (a.End()+mem.PageSize-1)&^(mem.PageSize-1))
			if mem.Virt(code[0].Start) > a.Start || end-a.Start > maxOwned {
				continue
			}
			// One that cannot be read is not compared, as if it had not been tried.
			if r, err := c.textRegion(m.Name, a.Start, end); err == nil {
				data.Starts = append(data.Starts, r)
			}
		}
	}
}

// notCompared returns those of the modules with code for their start of which that code
// is not, to its last executable page, what the file has, and why.
func (j *judging) notCompared(data *pageTablesData, out *measure.Check) (names []string) {
	for _, name := range data.Starting {
		if why := j.startDiffers(name, data, out); why != "" {
			names = append(names, name+" ("+why+")")
		}
	}
	return names
}

// startDiffers says why the code of a module's start is not compared; nothing if it is.
func (j *judging) startDiffers(name string, data *pageTablesData, out *measure.Check) string {
	i := slices.IndexFunc(j.code.modules, func(m moduleFact) bool { return m.Name == name })
	switch {
	case i < 0:
		return "it came while the scan ran"
	case j.code.modules[i].asleep():
		return "nothing of it was executable when the scan began"
	case j.refs.Modules == nil:
		return errNoModules.Error()
	}
	want, err := j.expected()
	if err != nil {
		return err.Error()
	}
	if want.modules[name] == nil {
		return "its text is not compared"
	}
	text, err := want.modules[name].StartCode()
	if err != nil {
		return err.Error()
	}
	if !j.code.modules[i].startIn(data, text) {
		return "more of its memory can be executed than its file has code"
	}
	k := slices.IndexFunc(data.Starts, func(r region) bool { return r.Name == name && mem.Virt(r.Start) == text.Start })
	if k < 0 {
		return "it was not read"
	}
	seen := measure.Check{Name: out.Name}
	if err := j.explain(text, &data.Starts[k], &seen, nil); err != nil {
		return err.Error()
	}
	if n := len(seen.Findings); n > 0 {
		f := seen.Findings[0]
		return fmt.Sprintf("it differs from its file in %d places, first at %s: %.32s, not %.32s", n, f.Address, f.Observed, f.Expected)
	}
	out.Notes = append(out.Notes, seen.Notes...)
	return ""
}

// startIn reports whether all that can be executed of the memory for a module's start
// is a text.
func (m *moduleFact) startIn(data *pageTablesData, text *kernel.Text) bool {
	from, to := address(text.Start), address(text.Start)+address(text.Pages)*mem.PageSize
	for _, a := range m.Areas {
		if a.Kind != kernel.AreaInit {
			continue
		}
		for _, r := range data.Executable {
			first, last := max(r.Start, a.Start), min(r.Start+address(r.Size), a.Start+address(a.Size))
			if first < last && (first < from || last > to) {
				return false
			}
		}
	}
	return true
}
