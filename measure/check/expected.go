package check

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// expectedText is what all text of the target should be, made once a judgement:
// the kernel's text calls into modules and theirs into the kernel's.
type expectedText struct {
	env     *kernel.Expected
	modules map[string]*kernel.Text
	why     map[string]error // modules with nothing to compare with
	err     error
}

var errNoModules = errors.New("no modules' files to compare with")

// expected makes what the target's text should be.
func (j *judging) expected() (*expectedText, error) {
	if j.text == nil && j.image != nil && j.refs.Memo != nil {
		j.text = j.refs.Memo.take(j.image, j.expectedKey())
	}
	if j.text == nil {
		j.text = j.makeExpected()
	}
	return j.text, j.text.err
}

// expectedKey stands for what expected makes, of one image.
func (j *judging) expectedKey() Digest {
	environment := j.environment()
	return DigestOf(append(environment[:], j.obs.Kernel.Slide...))
}

// expectedItems are the observations that decide what text should be, and what it
// may be changed to. Keys of accepted text stand for all of them.
var expectedItems = []string{textName, dynamicName, modulesName}

// sharedItems are the observations that others than their own check are judged by.
// No judge gets to see more.
var sharedItems = append(slices.Clone(expectedItems), moduleTextName)

// expectedFrom returns the facts of one of expectedItems, nil if there are none.
func (j *judging) expectedFrom(name string) json.RawMessage {
	if !slices.Contains(expectedItems, name) {
		panic("text depends on " + name + ", and keys of accepted text do not")
	}
	if item := j.obs.Item(name); item != nil {
		return item.Data
	}
	return nil
}

func (j *judging) makeExpected() *expectedText {
	t := &expectedText{modules: make(map[string]*kernel.Text), why: make(map[string]error)}
	if j.image == nil {
		t.err = j.imageErr
		return t
	}
	slide, err := strconv.ParseUint(strings.TrimPrefix(j.obs.Kernel.Slide, "0x"), 16, 64)
	if err != nil || slide%mem.PageSize != 0 {
		t.err = fmt.Errorf("observation is malformed: slide %q", j.obs.Kernel.Slide)
		return t
	}
	facts := &textData{}
	if raw := j.expectedFrom(textName); raw != nil {
		if facts, t.err = j.textData(raw); t.err != nil {
			return t
		}
	}
	patching := facts.Patching.facts()
	var dynamic dynamicData
	if raw := j.expectedFrom(dynamicName); raw != nil {
		if t.err = decode(raw, &dynamic); t.err != nil {
			return t
		}
	}
	for _, i := range dynamic.Images {
		if i.Trampoline {
			patching.Images = append(patching.Images, kernel.BPFImage{Name: i.Name, Start: mem.Virt(i.Start), Size: uint64(i.End - i.Start)})
		}
	}
	t.env = kernel.NewExpected(j.image, slide, patching)
	if !slices.ContainsFunc(j.code.modules, func(m moduleFact) bool { return ofProcessor(m.Name) && m.Live }) {
		t.env.Orphan("kvm")
	}
	for _, a := range facts.Arrived {
		t.env.Uncompared(a.Kind, mem.Virt(a.Start), a.Size)
	}
	for _, m := range j.inOrder() {
		if t.modules[m.Name] != nil || t.why[m.Name] != nil {
			continue // a name twice is a finding of linux.modules
		}
		text, err := j.expectModule(t.env, m)
		if err != nil {
			t.why[m.Name] = err
			if !m.Live {
				for _, a := range m.Areas {
					if a.Kind == kernel.AreaText {
						t.env.Uncompared(m.Name, mem.Virt(a.Start), a.Size)
					}
				}
			}
		} else {
			t.modules[m.Name] = text
		}
	}
	return t
}

// inOrder lists the modules so that what one needs comes before it. The list has
// the newest first, and was loaded in that order. A live patch reaches into
// modules that may have come after it, and nothing needs it.
func (j *judging) inOrder() []moduleFact {
	var first, last []moduleFact
	for _, m := range slices.Backward(j.code.modules) {
		if file, err := j.moduleFile(&m); err == nil && file.Livepatch {
			last = append(last, m)
		} else {
			first = append(first, m)
		}
	}
	return append(first, last...)
}

func (j *judging) expectModule(env *kernel.Expected, m moduleFact) (*kernel.Text, error) {
	file, err := j.moduleFile(&m)
	if err != nil {
		return nil, err
	}
	text, err := env.AddModule(file, m.loaded())
	if err != nil && !m.Live {
		return nil, fmt.Errorf("%s: %w", m.doing(), err)
	}
	return text, err
}

// doing says what becomes of a module that is not live.
func (m *moduleFact) doing() string {
	switch m.State {
	case 1:
		return "it is being loaded"
	case 2:
		return "it is being unloaded"
	}
	return "it is being loaded or unloaded" // unformed, both before and after
}

// loaded is the fact in the form that the kernel package takes.
func (m *moduleFact) loaded() *kernel.LoadedModule {
	out := &kernel.LoadedModule{Name: m.Name, At: mem.Virt(m.At), BuildID: m.BuildID, Live: m.Live, PerCPU: mem.Virt(m.PerCPU)}
	for _, a := range m.Areas {
		out.Areas = append(out.Areas, kernel.Area{Kind: a.Kind, Start: mem.Virt(a.Start), Size: a.Size})
	}
	for _, s := range m.Sections {
		out.Sections = append(out.Sections, kernel.ModuleSection{Name: s.Name, Addr: mem.Virt(s.At)})
	}
	return out
}

// explain judges the pages of a text. Pages that were accepted before, with the
// same bytes and the same facts, need no bytes. Differences for which doubted is
// not nil and true are left out.
func (j *judging) explain(t *kernel.Text, r *region, out *measure.Check, doubted func(kernel.Difference) bool) error {
	if err := r.validate(); err != nil {
		return err
	}
	if mem.Virt(r.Start) != t.Start || r.pages() != t.Pages {
		return fmt.Errorf("the scan read %d pages at %v, the text is %d pages at %v", r.pages(), r.Start, t.Pages, t.Start)
	}
	whole := j.wholeKey(out.Name, r)
	if j.accepted(whole) {
		return nil
	}
	env := j.text.env
	var pages []int
	keys := make(map[int]PageKey)
	clean := true // each page was accepted, or is now
	for i := range t.Pages {
		d, ok := r.digest(i)
		if !ok {
			return fmt.Errorf("the page at %v could not be read", r.page(i))
		}
		anchor, err := j.anchor(t, r, i)
		if err != nil {
			return err
		}
		key := j.pageKey(out.Name, d, anchor)
		if j.accepted(key) {
			continue
		}
		clean = clean && env.Settled(t, i)
		if _, ok := j.page(d); ok {
			pages = append(pages, i)
			if env.Settled(t, i) {
				keys[i] = key
			}
		} else {
			clean = false
		}
	}
	x := env.Explain(t, pages, func(page int) []byte {
		if page < 0 || page >= r.pages() {
			return nil
		}
		d, _ := r.digest(page)
		b, _ := j.page(d)
		return b
	})
	for page := range x.Told {
		delete(keys, page)
	}
	if len(x.Need) == 0 {
		for _, key := range keys {
			j.accept(key)
		}
		if clean && len(x.Told) == 0 && len(x.Findings) == 0 && len(x.Notes) == 0 {
			j.accept(whole)
		}
	}
	found := len(x.Findings)
	x.Findings = slices.DeleteFunc(x.Findings, func(d kernel.Difference) bool { return r.reachesHeld(t, d) })
	halves := found - len(x.Findings)
	if doubted != nil {
		x.Findings = slices.DeleteFunc(x.Findings, doubted)
	}
	out.Findings = append(out.Findings, j.differences(x.Findings)...)
	out.Notes = append(out.Notes, j.differences(x.Notes)...)
	if len(x.Taken) > 0 {
		return fmt.Errorf("its static calls go to where kvm_amd or kvm_intel was, which is not loaded, and where there is now: %s (they are told apart again when that is loaded, or kvm unloaded)",
			strings.Join(slices.Sorted(maps.Keys(x.Taken)), ", "))
	}
	if halves > 0 {
		return fmt.Errorf("%w: %d differences, which may be half of a patch", errPatching, halves)
	}
	if len(x.Uncompared) > 0 {
		return fmt.Errorf("static calls lead into modules that were loaded or unloaded while the scan ran: %s",
			strings.Join(slices.Sorted(maps.Keys(x.Uncompared)), ", "))
	}
	return nil
}

// reachesHeld reports whether a difference is in a page that was held, or in one whose
// patch sites reach into such.
func (r *region) reachesHeld(t *kernel.Text, d kernel.Difference) bool {
	if len(r.Held) == 0 {
		return false
	}
	last := int(d.Addr-r.page(0)+mem.Virt(max(len(d.Observed), len(d.Expected), 1))-1) / mem.PageSize
	for page := int(d.Addr-r.page(0)) / mem.PageSize; page <= last; page++ {
		if r.held(page) || slices.ContainsFunc(t.Neighbours(page), r.held) {
			return true
		}
	}
	return false
}

// anchor is what the judgement of a page of text depends on besides its bytes:
// the facts of its patch sites, the pages that these reach into and, where it
// refers to modules, those.
func (j *judging) anchor(t *kernel.Text, r *region, page int) ([]byte, error) {
	out := j.text.env.Anchor(t, page)
	for _, n := range t.Neighbours(page) {
		if n >= r.pages() {
			continue // reaches out of the text: nothing there is compared
		}
		d, ok := r.digest(n)
		if !ok {
			return nil, fmt.Errorf("the page at %v could not be read", r.page(n))
		}
		out = append(out, d[:]...)
	}
	if j.text.env.Leaves(t, page) {
		layout := j.layout()
		out = append(append(out, layout[:]...), t.Name...)
		if t.Name != "" { // the kernel's follows from its build and slide
			want := DigestOf(t.Want(page))
			out = append(out, want[:]...)
		}
	}
	return out, nil
}

// layout stands for all modules: names, builds, and where each section is.
func (j *judging) layout() Digest {
	if j.modulesDigest == (Digest{}) {
		b, err := json.Marshal(j.code.modules)
		if err != nil {
			panic(err) // strings and numbers
		}
		j.modulesDigest = DigestOf(b)
	}
	return j.modulesDigest
}

// pageKey stands for a page that a check has judged: its bytes, the kernel, and
// whatever else the judgement depended on.
func (j *judging) pageKey(check string, d Digest, anchor []byte) PageKey {
	b := fmt.Appendf(nil, "plumbline page 2\x00%s\x00%s\x00%s\x00", check, j.obs.Kernel.BuildID, j.obs.Kernel.Slide)
	b = append(b, d[:]...)
	return PageKey(DigestOf(append(b, anchor...)))
}

// differences turns runs of bytes into findings.
func (j *judging) differences(list []kernel.Difference) []measure.Finding {
	var out []measure.Finding
	for _, d := range list {
		f := measure.Finding{Address: d.Addr.String(), Observed: fmt.Sprintf("%x", d.Observed),
			Expected: fmt.Sprintf("%x", d.Expected), Explanation: d.Explanation}
		if name, offset, ok := j.text.env.Lookup(uint64(d.Addr)); ok {
			f.Symbol = withOffset(name, offset)
		}
		out = append(out, f)
	}
	return out
}
