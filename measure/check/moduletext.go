package check

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
)

// modules.text: every byte of every loaded module's text is what its file says
// once linked to where the module is, or was changed by the kernel itself as in
// linux.text.
//
// Proves: that the code of the modules on the kernel's list is that of their
// files. Trusts: the files, and the list for which modules there are; code in a
// module that took itself off the list is not seen here. Where sections lie is
// the target's word, but code that is not where it says does not match. Of a module
// that is being loaded and says nothing of that yet it follows from the file: what is
// the file's there passes, what is not is not measured.
const moduleTextName = "modules.text"

func moduleTextCheck() check {
	return check{name: moduleTextName, bulk: 1, collect: collectModuleText, judge: judgeModuleText, memo: true}
}

// maxModuleBytes bounds what the list of modules may make a scan read, in bytes.
const maxModuleBytes = 512 << 20

var errModuleBytes = fmt.Errorf("the modules on the list claim over %d bytes", maxModuleBytes)

// moduleTextData are the facts of modules.text.
type moduleTextData struct {
	Modules []region `json:"modules"` // the text of each, by the module's name
	// Gone are modules that left the kernel while the scan ran: nothing of them
	// is there to be measured.
	Gone []string `json:"gone,omitempty"`
	// Arrived are modules that came while the scan ran.
	Arrived []string `json:"arrived,omitempty"`
	// Patching is the digest of what the kernel patched by, after all were read.
	Patching string `json:"patching,omitempty"`
}

func collectModuleText(c *collector) (any, measure.Coverage, error) {
	var data moduleTextData
	var coverage measure.Coverage
	if c.modulesErr != nil {
		return nil, coverage, c.modulesErr
	}
	room := uint64(maxModuleBytes)
	for _, m := range c.modules {
		area, ok := m.Area(kernel.AreaText)
		if !ok {
			continue
		}
		if area.Size > room {
			return nil, coverage, errModuleBytes
		}
		room -= area.Size
		r, err := c.textRegion(m.Name, area.Start, area.End())
		if err != nil {
			return nil, coverage, err
		}
		data.Modules = append(data.Modules, r)
		got := r.coverage()
		coverage.Bytes += got.Bytes
		coverage.Objects++
	}
	var err error
	data.Gone, err = c.goneModules()
	if err != nil {
		return nil, coverage, err
	}
	for _, m := range c.later {
		if !c.isDormant(&m) && !slices.ContainsFunc(c.modules, func(then kernel.LoadedModule) bool { return then.At == m.At && then.Name == m.Name }) {
			data.Arrived = append(data.Arrived, m.Name)
		}
	}
	coverage.Total = int64(len(c.modules))
	data.Patching, err = digestOfPatching(c.patching())
	return data, coverage, err
}

func digestOfPatching(d patchingData) (string, error) {
	raw, err := json.Marshal(d)
	return DigestOf(raw).String(), err
}

// goneModules names the modules that have left the list since the scan began. A
// list that cannot be read has lost none.
func (c *collector) goneModules() ([]string, error) {
	var list []kernel.LoadedModule
	var err error
	for range moduleAttempts {
		if list, err = c.profile.Modules(); err == nil {
			break
		}
	}
	var gone []string
	for _, m := range c.modules {
		if err == nil && !slices.ContainsFunc(list, func(now kernel.LoadedModule) bool { return now.At == m.At && now.Name == m.Name }) {
			gone = append(gone, m.Name)
		}
	}
	c.later = list
	return gone, err
}

func judgeModuleText(j *judging, raw json.RawMessage, out *measure.Check) error {
	var data moduleTextData
	if err := decode(raw, &data); err != nil {
		return err
	}
	if j.refs.Modules == nil {
		return errNoModules
	}
	if err := j.listed(); err != nil {
		return err
	}
	if item := j.obs.Item(textName); item == nil || item.Data == nil {
		return errors.New("where static calls and probes go was not observed: linux.text was not")
	}
	want, err := j.expected()
	if err != nil {
		return err
	}
	regions := make(map[string]*region, len(data.Modules))
	for i := range data.Modules {
		regions[data.Modules[i].Name] = &data.Modules[i]
	}
	// The calls of modules follow what the kernel patched by when they were read,
	// which need not be what it did when its own text was.
	otherwise := sync.OnceValue(func() bool { return j.patchedOtherwise(data.Patching) })
	doubts := 0
	doubted := func(d kernel.Difference) bool {
		if !d.Follows || !otherwise() {
			return false
		}
		doubts++
		return true
	}
	var problems []string
	for _, m := range j.code.modules {
		if slices.Contains(data.Gone, m.Name) {
			out.Notes = append(out.Notes, measure.Finding{Symbol: m.Name, Explanation: "the module was unloaded while the scan ran"})
			continue
		}
		if m.asleep() {
			out.Notes = append(out.Notes, measure.Finding{Symbol: m.Name, Explanation: "the module is being loaded, and nothing of its memory can be executed yet: it has no text to be judged"})
			continue
		}
		text, r := want.modules[m.Name], regions[m.Name]
		err := want.why[m.Name]
		switch {
		case err != nil:
		case r == nil && text.Pages == 0: // has none
		case r == nil:
			err = errors.New("its text was not read")
		default:
			doubts = 0
			found := len(out.Findings)
			if err = j.explain(text, r, out, doubted); err == nil && doubts > 0 {
				err = fmt.Errorf("%d calls go elsewhere than they were to when the kernel's text was read, and where they go changed while the scan ran", doubts)
			}
			if unmade := m.takeUnmade(out, found); err == nil {
				err = unmade
			}
		}
		if err != nil {
			problems = append(problems, fmt.Sprintf("%s: %v", m.Name, err))
		}
	}
	for _, name := range data.Arrived {
		problems = append(problems, name+": it was loaded while the scan ran")
	}
	if len(problems) > 0 {
		return fmt.Errorf("%d of %d modules not measured: %s", len(problems), len(j.code.modules), strings.Join(problems, "; "))
	}
	return nil
}

// takeUnmade takes the findings from one on back, and returns an error that counts
// them, if the module is unplaced.
func (m *moduleFact) takeUnmade(out *measure.Check, from int) error {
	n := len(out.Findings) - from
	if n == 0 || !m.unplaced() {
		return nil
	}
	out.Findings = out.Findings[:from]
	return fmt.Errorf("%s, and differs from its file in %d places, which it may do until that is over", m.doing(), n)
}

// patchedOtherwise says whether the kernel patched by other facts when it was read
// than when linux.text was. Where that is not known it did not.
func (j *judging) patchedOtherwise(digest string) bool {
	text, err := j.textData(j.expectedFrom(textName))
	if err != nil || digest == "" {
		return false
	}
	then, err := digestOfPatching(text.Patching)
	return err == nil && then != digest
}

// listed says why it is not known which modules there are.
func (j *judging) listed() error {
	if item := j.obs.Item(modulesName); item == nil || item.Data == nil {
		return errors.New("which modules there are was not observed: linux.modules was not")
	}
	return j.code.broken
}
