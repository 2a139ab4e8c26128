package check

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Reference is what one clean machine vouches for: the text and read-only data
// of a kernel as every machine with this build, this CPU and one CPU or several
// has them. Judged against it a target needs no kernel image, and a difference
// cannot be explained. It covers no modules.
type Reference struct {
	Version int              `json:"version"`
	BuildID string           `json:"build_id"`
	Release string           `json:"release"`
	CPU     string           `json:"cpu"`
	SMP     bool             `json:"smp"`
	Text    *kernel.Portable `json:"text"`
	Rodata  *kernel.Portable `json:"rodata"`
}

const (
	referenceVersion = 1
	maxReference     = 64 << 20 // bytes
)

// Errors of references.
var (
	ErrReference      = errors.New("not a valid reference")
	errOtherReference = errors.New("no reference for this machine")
)

// NewReference makes a reference from a scan that passed. refs must have the
// image and the pages.
func NewReference(obs *measure.Observations, refs *References) (*Reference, error) {
	if obs.Kernel.Kind != "" {
		return nil, fmt.Errorf("%w: references are of Linux kernels only", ErrReference)
	}
	j := newJudging(obs, refs)
	text, err := j.expected()
	if err != nil {
		return nil, err
	}
	facts, err := j.textFacts()
	if err != nil {
		return nil, err
	}
	var rodata region
	item := obs.Item(rodataName)
	if item == nil || item.Data == nil {
		return nil, fmt.Errorf("%s: %w", rodataName, errNotObserved)
	}
	if err := decode(item.Data, &rodata); err != nil {
		return nil, err
	}
	out := &Reference{Version: referenceVersion, BuildID: obs.Kernel.BuildID, Release: obs.Kernel.Release, CPU: facts.CPU, SMP: obs.Kernel.CPUs > 1}
	if out.Text, err = text.env.PortableText(j.bytesOf(&facts.Text)); err != nil {
		return nil, err
	}
	if out.Rodata, err = text.env.PortableRodata(j.bytesOf(&rodata)); err != nil {
		return nil, err
	}
	return out, nil
}

// Encode returns the reference as JSON.
func (r *Reference) Encode() ([]byte, error) { return json.Marshal(r) }

// DecodeReference reads what [Reference.Encode] wrote; anything else is
// [ErrReference].
func DecodeReference(b []byte) (*Reference, error) {
	if len(b) > maxReference {
		return nil, fmt.Errorf("%w: %d bytes", ErrReference, len(b))
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	var r Reference
	if err := dec.Decode(&r); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrReference, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: bytes after the end", ErrReference)
	}
	if r.Version != referenceVersion || r.BuildID == "" || r.Text == nil || r.Rodata == nil {
		return nil, fmt.Errorf("%w: version %d of build %q", ErrReference, r.Version, r.BuildID)
	}
	for _, p := range []*kernel.Portable{r.Text, r.Rodata} {
		if err := p.Validate(); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrReference, err)
		}
	}
	return &r, nil
}

// reference returns the reference for the target that was observed.
func (j *judging) reference() (*Reference, error) {
	facts, err := j.textFacts()
	if err != nil {
		return nil, err
	}
	why := errNoImage
	for _, r := range j.refs.Portable {
		smp := j.obs.Kernel.CPUs > 1
		switch {
		case r.BuildID != j.obs.Kernel.BuildID:
			why = fmt.Errorf("%w: the reference is for build %s, the target runs %s", errOtherReference, r.BuildID, j.obs.Kernel.BuildID)
		case r.CPU != facts.CPU:
			why = fmt.Errorf("%w: the reference is for CPU %s, the target has %s", errOtherReference, r.CPU, facts.CPU)
		case r.SMP != smp:
			why = fmt.Errorf("%w: one of them has one CPU, the other several", errOtherReference)
		default:
			return r, nil
		}
	}
	return nil, why
}

// textFacts are the facts of linux.text.
func (j *judging) textFacts() (*textData, error) {
	item := j.obs.Item(textName)
	if item == nil || item.Data == nil {
		return nil, fmt.Errorf("%s: %w", textName, errNotObserved)
	}
	data, err := j.textData(item.Data)
	if err != nil {
		return nil, err
	}
	return data, data.Text.validate()
}

// textData decodes the facts of linux.text once.
func (j *judging) textData(raw json.RawMessage) (*textData, error) {
	if j.textOnce == nil {
		var data textData
		if err := decode(raw, &data); err != nil {
			return nil, err
		}
		j.textOnce = &data
	}
	return j.textOnce, nil
}

// bytesOf gives the bytes of a region's pages.
func (j *judging) bytesOf(r *region) func(page int) []byte {
	return func(page int) []byte {
		if page < 0 || page >= r.pages() {
			return nil
		}
		d, ok := r.digest(page)
		if !ok {
			return nil
		}
		b, _ := j.page(d)
		return b
	}
}

// comparePortable judges a region against a reference.
func (j *judging) comparePortable(p *kernel.Portable, r *region, out *measure.Check) error {
	if err := r.validate(); err != nil {
		return err
	}
	slide, err := strconv.ParseUint(strings.TrimPrefix(j.obs.Kernel.Slide, "0x"), 16, 64)
	if err != nil {
		return fmt.Errorf("observation is malformed: slide %q", j.obs.Kernel.Slide)
	}
	if uint64(r.Start) != p.Link+slide || r.pages() != p.Pages() {
		return fmt.Errorf("the scan read %d pages at %v, the reference has %d pages at %#x", r.pages(), r.Start, p.Pages(), p.Link+slide)
	}
	var held error
	for i := range r.pages() {
		d, ok := r.digest(i)
		if !ok {
			return fmt.Errorf("the page at %v could not be read", r.page(i))
		}
		key := j.pageKey(out.Name, d, append([]byte("reference "), p.Digests[i*32:i*32+32]...))
		if j.accepted(key) {
			continue
		}
		seen, ok := j.page(d)
		if !ok {
			continue
		}
		if p.Same(i, seen, slide) {
			j.accept(key)
			continue
		}
		if r.held(i) {
			held = errPatching
			continue
		}
		out.Findings = append(out.Findings, measure.Finding{
			Address: r.page(i).String(), Observed: "page " + d.String(), Expected: fmt.Sprintf("page %x", p.Digests[i*32:i*32+32]),
			Explanation: "the page differs from the reference; which bytes and why takes the kernel's image",
		})
	}
	out.Coverage.Bytes = p.Covered()
	out.Reason = fmt.Sprintf("compared with the reference of another machine; %d bytes that differ from boot to boot are not compared",
		int64(p.Pages())*mem.PageSize-p.Covered())
	return held
}
