package check

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/plumbline-sec/plumbline/measure"
)

// ViewsName is the check that [CompareViews] makes.
const ViewsName = "views"

// CompareViews holds what a machine says of itself against what is seen of it
// from outside: inside was read by software on the machine (measure/mem/kcore),
// outside by its host, a little before, a little after, or both. Kernel code,
// constant data, code pointers and modules are compared.
//
// Proves: where it finds something, that the machine does not show its memory as
// it is, or that it changed in between. What inside has as any of the outside
// views has it is no finding: give one from before and one from after and what
// the kernel patched meanwhile does not count. Trusts: the outside views. It
// cannot see lies about what no check observes.
func CompareViews(inside *measure.Observations, outside ...*measure.Observations) measure.Check {
	out := measure.Check{Name: ViewsName, Outcome: measure.NotMeasured}
	if len(outside) == 0 {
		out.Reason = "there is no view from outside"
		return out
	}
	in, err := newView(inside)
	if err != nil {
		out.Reason = "the view from inside: " + err.Error()
		return out
	}
	var views []*view
	apart := time.Duration(0)
	for _, o := range outside {
		v, err := newView(o)
		switch {
		case err != nil:
			out.Reason = "a view from outside: " + err.Error()
			return out
		case v.kernel != in.kernel:
			out.Reason = fmt.Sprintf("the views are of different kernels or boots: %s inside, %s outside", in.kernel, v.kernel)
			return out
		}
		views = append(views, v)
		apart = max(apart, o.TakenAt.Sub(inside.TakenAt).Abs())
	}
	out.Coverage.Objects = in.compare(views, &out)
	switch {
	case out.Coverage.Objects == 0:
		out.Reason = "the views have nothing in common"
	case len(out.Findings) > 0:
		out.Outcome = measure.Fail
	default:
		out.Outcome = measure.Pass
	}
	if out.Reason == "" {
		out.Reason = fmt.Sprintf("the views are up to %s apart: what the kernel changed in between shows too", apart.Round(time.Second))
	}
	return out
}

// view is what observations say of things that do not change by themselves, by
// what they are of.
type view struct {
	kernel  string
	facts   map[string]fact
	modules map[string]bool // whether the list was read
}

// fact is one thing that is compared.
type fact struct {
	at    address
	kind  string
	value string
}

func newView(o *measure.Observations) (*view, error) {
	k := o.Kernel
	v := &view{kernel: fmt.Sprintf("build %s at %s", k.BuildID, k.TextBase), facts: make(map[string]fact)}
	if k.BuildID == "" {
		return nil, fmt.Errorf("no kernel was found in it")
	}
	for _, item := range o.Items {
		// The pages of linux.pointers and modules.pointers are data, which is written all the time; those
		// of linux.init were given back, and belong to whoever got them.
		if item.Data == nil || item.Check == pointersName || item.Check == modulePointersName || item.Check == initName {
			continue
		}
		var data any
		if err := decode(item.Data, &data); err != nil {
			return nil, fmt.Errorf("%s: %w", item.Check, err)
		}
		v.walk(item.Check, data)
		if item.Check != modulesName {
			continue
		}
		var list modulesData
		if err := decode(item.Data, &list); err != nil {
			return nil, fmt.Errorf("%s: %w", item.Check, err)
		}
		if list.Broken == "" {
			v.modules = make(map[string]bool)
			for _, m := range list.Modules {
				v.modules[fmt.Sprintf("%s at %v", m.Name, address(m.At))] = true
			}
		}
	}
	return v, nil
}

// walk takes regions and pointers out of an observation, wherever they are: they
// are told by their keys.
func (v *view) walk(check string, data any) {
	switch data := data.(type) {
	case []any:
		for _, e := range data {
			v.walk(check, e)
		}
	case map[string]any:
		if data["digests"] != nil {
			v.region(check, data)
			return
		}
		if data["path"] != nil && data["value"] != nil {
			v.pointer(check, data)
			return
		}
		for _, e := range data {
			v.walk(check, e)
		}
	}
}

// as reads a part of an observation anew, as what it is.
func as[T any](data any) (out T, ok bool) {
	raw, err := json.Marshal(data)
	return out, err == nil && json.Unmarshal(raw, &out) == nil
}

func (v *view) region(check string, data any) {
	r, ok := as[region](data)
	if !ok || r.validate() != nil {
		return
	}
	for i := range r.pages() {
		value := "not readable"
		if d, ok := r.digest(i); ok {
			value = d.String()
		}
		if r.held(i) {
			continue
		}
		at := address(r.page(i))
		v.facts[fmt.Sprintf("%s page %v", check, at)] = fact{at, "page of " + check, value}
	}
}

func (v *view) pointer(check string, data any) {
	if p, ok := as[pointer](data); ok {
		v.facts[fmt.Sprintf("%s %s %v", check, p.Path, p.At)] = fact{p.At, p.Path, p.Value.String()}
	}
}

// maxViewFindings bounds what is told of two views that differ everywhere.
const maxViewFindings = 1000

// compare returns how many things inside and outside both have.
func (v *view) compare(outside []*view, out *measure.Check) (compared int64) {
	for key, have := range v.facts {
		var want []string
		for _, o := range outside {
			if f, ok := o.facts[key]; ok {
				want = append(want, f.value)
			}
		}
		if len(want) == 0 {
			continue
		}
		compared++
		if !slices.Contains(want, have.value) {
			out.Findings = append(out.Findings, measure.Finding{Address: have.at.String(), Symbol: have.kind,
				Observed: have.value, Expected: want[len(want)-1],
				Explanation: "the machine shows other bytes of this than its host sees"})
		}
	}
	compared += v.compareModules(outside, out)
	slices.SortFunc(out.Findings, func(a, b measure.Finding) int {
		return slices.Compare([]string{a.Symbol, a.Address}, []string{b.Symbol, b.Address})
	})
	if n := len(out.Findings); n > maxViewFindings {
		out.Findings = out.Findings[:maxViewFindings]
		out.Reason = fmt.Sprintf("%d differences, of which %d are shown", n, maxViewFindings)
	}
	return compared
}

// compareModules finds modules that all outside views have and inside has not,
// or the other way round.
func (v *view) compareModules(outside []*view, out *measure.Check) (compared int64) {
	if v.modules == nil || slices.ContainsFunc(outside, func(o *view) bool { return o.modules == nil }) {
		return 0
	}
	found := func(name, explanation string) {
		out.Findings = append(out.Findings, measure.Finding{Symbol: "module " + name, Explanation: explanation})
	}
	for name := range outside[0].modules {
		if !slices.ContainsFunc(outside, func(o *view) bool { return !o.modules[name] }) {
			compared++
			if !v.modules[name] {
				found(name, "the machine does not show a module that its host sees")
			}
		}
	}
	for name := range v.modules {
		if !slices.ContainsFunc(outside, func(o *view) bool { return o.modules[name] }) {
			found(name, "the machine shows a module that its host does not see")
		}
	}
	return compared
}
