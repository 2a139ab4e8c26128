package check

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	jsonv2 "github.com/go-json-experiment/json"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
)

// References is what observations are judged against. Every field may be nil:
// checks that need it are then not measured, and say so.
type References struct {
	// Checks names the checks to judge, for a caller that asked for no others;
	// all of them if empty.
	Checks []string
	// Images gives the kernel image the target should run.
	Images ImageSource
	// Xen gives the image of the Xen that the target should run, if it runs one.
	Xen XenSource
	// Modules gives the modules' files that belong to the image.
	Modules ModuleSource
	// Portable are references of clean machines, used where there is no image.
	Portable []*Reference
	// Pages gives the bytes of pages that have no judgement yet.
	Pages PageSource
	// Accepted remembers pages that were judged clean. It only saves work: a
	// judgement with and without it comes out the same.
	Accepted Accepted
	// Memo keeps what a judgement made of the files for the next one; nil keeps
	// nothing.
	Memo *Memo
}

// ImageSource gives kernel images.
type ImageSource interface {
	// Image returns the image with a build-id, or an error that says why there
	// is none, such as [kernel.ErrOtherBuild].
	Image(buildID string) (*kernel.Image, error)
}

// ModuleSource gives expected modules.
type ModuleSource interface {
	// Module returns the file of a module by name and build-id; the build-id
	// is empty where the target does not tell it.
	Module(name, buildID string) (*kernel.ModuleFile, error)
}

// Accepted remembers judgements of single pages.
type Accepted interface {
	Accepted(key PageKey) bool
	Accept(key PageKey)
}

// PageKey stands for a page with these bytes, at this address, of this kernel,
// judged by this check.
type PageKey Digest

var (
	errNotObserved = errors.New("the scan did not observe it")
	errNoImage     = errors.New("no kernel image to compare with")
)

// judging is what the judging half of a check works with.
type judging struct {
	all     *measure.Observations
	obs     *measure.Observations // with the items of sharedItems only
	refs    *References
	missing []Digest
	asked   map[Digest]bool

	image    *kernel.Image // nil if imageErr
	imageErr error
	code     code
	text     *expectedText // made by expected

	modulesDigest     Digest // made by layout
	environmentDigest Digest // made by environment
	textOnce          *textData

	sharedOnce   sync.Once
	sharedDigest Digest // made by shared
}

// Judge turns observations into a report. It is a pure function of its
// arguments. When it needs the bytes of pages that refs.Pages does not have it
// returns a [*MissingPagesError] and no report.
func Judge(obs *measure.Observations, refs *References) (*measure.Report, error) {
	if refs == nil {
		refs = &References{}
	}
	j := newJudging(obs, refs)
	defer j.finish()
	report := &measure.Report{
		Target:    obs.Target,
		TakenAt:   obs.TakenAt,
		PauseMS:   float64(obs.PauseNS) / 1e6,
		ElapsedMS: float64(obs.ElapsedNS) / 1e6,

		TotalPauseMS: float64(obs.TotalPauseNS) / 1e6,

		Kernel: obs.Kernel,
		Checks: []measure.Check{},
	}
	checks, err := selected(refs.Checks, obs.Kernel.Kind)
	if err != nil {
		return nil, err
	}
	report.Checks = append(report.Checks, j.checks(checks)...)
	report.Checks = append(report.Checks, j.unknown()...)
	if len(j.missing) > 0 {
		return nil, &MissingPagesError{Digests: j.missing}
	}
	report.Decide()
	return report, nil
}

func newJudging(obs *measure.Observations, refs *References) *judging {
	shared := *obs
	shared.Items = slices.DeleteFunc(slices.Clone(obs.Items), func(o measure.Observation) bool { return !slices.Contains(sharedItems, o.Check) })
	j := &judging{all: obs, obs: &shared, refs: refs, asked: make(map[Digest]bool), imageErr: errNoImage}
	if refs.Images != nil && obs.Kernel.Kind == "" {
		j.image, j.imageErr = refs.Images.Image(obs.Kernel.BuildID)
	}
	j.code = j.approved()
	return j
}

// finish leaves what was made to the next judgement.
func (j *judging) finish() {
	if j.refs.Memo != nil && j.text != nil && j.text.err == nil {
		j.refs.Memo.put(j.image, j.expectedKey(), j.text)
	}
}

// checks judges checks. Those that allow it are judged beside the others.
func (j *judging) checks(checks []check) []measure.Check {
	out := make([]measure.Check, len(checks))
	if slices.ContainsFunc(checks, func(ch check) bool { return ch.beside }) {
		_, _ = j.expected() // made before anyone is beside anyone
	}
	var beside sync.WaitGroup
	for i, ch := range checks {
		if ch.beside {
			beside.Go(func() { out[i] = j.check(ch) })
		}
	}
	for i, ch := range checks {
		if !ch.beside {
			out[i] = j.check(ch)
		}
	}
	beside.Wait()
	return out
}

// check judges one check. Observations come from a producer that may lie: a
// panic is a bug, and not a pass.
func (j *judging) check(ch check) (out measure.Check) {
	out = measure.Check{Name: ch.name, Outcome: measure.NotMeasured}
	item := j.all.Item(ch.name)
	switch {
	case item == nil:
		out.Reason = errNotObserved.Error()
		return out
	case item.NotMeasured != "":
		out.Reason = item.NotMeasured
		return out
	}
	out.Coverage = item.Coverage
	err := guard(func() error { return j.judge(ch, item, &out) })
	switch {
	case len(out.Findings) > 0:
		out.Outcome = measure.Fail
	case err != nil:
		out.Outcome = measure.NotMeasured
	default:
		out.Outcome = measure.Pass
	}
	if err != nil {
		out.Reason = err.Error()
	}
	return out
}

// unknown are observations of checks that this version cannot judge.
func (j *judging) unknown() []measure.Check {
	known := make(map[string]bool)
	for _, ch := range table() {
		known[ch.name] = true
	}
	var out []measure.Check
	for _, item := range j.all.Items {
		if !known[item.Check] {
			out = append(out, measure.Check{Name: item.Check, Outcome: measure.NotMeasured,
				Reason: "this version does not know the check"})
		}
	}
	return out
}

// page returns the bytes of a page. Where there are none it notes that they
// are needed: the judgement goes on, so that all needs are found in one pass,
// and is thrown away at the end.
func (j *judging) page(d Digest) ([]byte, bool) {
	if j.refs.Pages != nil {
		if b, ok := j.refs.Pages.Page(d); ok && DigestOf(b) == d {
			return b, true
		}
	}
	if !j.asked[d] {
		j.asked[d] = true
		j.missing = append(j.missing, d)
	}
	return nil, false
}

// accepted and accept are j.refs.Accepted, or nothing.
func (j *judging) accepted(key PageKey) bool {
	return j.refs.Accepted != nil && j.refs.Accepted.Accepted(key)
}

func (j *judging) accept(key PageKey) {
	if j.refs.Accepted != nil {
		j.refs.Accepted.Accept(key)
	}
}

// decode reads the data of an observation. It is hostile and there is much of it: names
// that are there twice, and text that is not UTF-8, are refused.
func decode(data json.RawMessage, into any) error {
	if err := jsonv2.Unmarshal(data, into); err != nil {
		return fmt.Errorf("observation is malformed: %w", err)
	}
	return nil
}
