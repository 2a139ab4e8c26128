package check

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// linux.rodata: every byte of the kernel's read-only data is what its file
// says, except what the kernel sets at boot.
//
// Proves: that constant tables (system calls, operations, exception and symbol
// tables, BTF) are those of the image. Trusts: the image. It says nothing of
// the range that is set at boot, [__start_ro_after_init, __end_ro_after_init),
// whose size the reason names: pointers in it are for the checks of each table.
const rodataName = "linux.rodata"

func rodataCheck() check {
	return check{name: rodataName, bulk: 3, collect: collectRodata, judge: judgeRodata, memo: true}
}

func collectRodata(c *collector) (any, measure.Coverage, error) {
	r, err := c.between("rodata", "__start_rodata", "__end_rodata")
	if err != nil {
		return nil, measure.Coverage{}, err
	}
	return r, r.coverage(), nil
}

func judgeRodata(j *judging, raw json.RawMessage, out *measure.Check) error {
	var r region
	if err := decode(raw, &r); err != nil {
		return err
	}
	if err := r.validate(); err != nil {
		return err
	}
	if j.image == nil && len(j.refs.Portable) > 0 {
		reference, err := j.reference()
		if err != nil {
			return err
		}
		return j.comparePortable(reference.Rodata, &r, out)
	}
	if err := j.symbols(out); err != nil {
		return err
	}
	text, err := j.expected()
	if err != nil {
		return err
	}
	want := text.env.Rodata()
	if mem.Virt(r.Start) != want.Start || r.pages() != want.Pages {
		return fmt.Errorf("the scan read %d pages at %v, the read-only data is %d pages at %v", r.pages(), r.Start, want.Pages, want.Start)
	}
	if err := j.compareRodata(want, &r, out); err != nil {
		return err
	}
	if want.SetAtBoot.Size > 0 {
		out.Coverage.Bytes -= int64(want.SetAtBoot.Size)
		out.Reason = fmt.Sprintf("%d bytes at %v, which the kernel sets at boot, are not compared", want.SetAtBoot.Size, want.SetAtBoot.Start)
	}
	return nil
}

// compareRodata compares the pages that were not accepted before.
func (j *judging) compareRodata(want *kernel.Rodata, r *region, out *measure.Check) error {
	whole, clean := j.wholeKey(rodataName, r), true
	if j.accepted(whole) {
		return nil
	}
	for i := range r.pages() {
		d, ok := r.digest(i)
		if !ok {
			return fmt.Errorf("the page at %v could not be read", r.page(i))
		}
		key := j.pageKey(rodataName, d, fmt.Appendf(nil, "%d", i))
		if j.accepted(key) {
			continue
		}
		seen, ok := j.page(d)
		if !ok {
			clean = false
			continue
		}
		diffs := want.Compare(i, seen)
		out.Findings = append(out.Findings, j.differences(diffs)...)
		if len(diffs) == 0 {
			j.accept(key)
		} else {
			clean = false
		}
	}
	if clean {
		j.accept(whole)
	}
	return nil
}

// symbols holds the symbols by which the scan found its way against those of the
// image: a table planted where the search comes first would lead every check
// that starts at a symbol elsewhere.
func (j *judging) symbols(out *measure.Check) error {
	if j.image == nil {
		return nil
	}
	seen := j.obs.Kernel.SymbolDigest
	if seen == "" {
		return errors.New("the scan does not say which symbols it went by")
	}
	if want := Digest(j.image.SymbolDigest()); seen != want.String() {
		out.Findings = append(out.Findings, measure.Finding{
			Symbol: "kallsyms", Observed: fmt.Sprintf("%d symbols, digest %.64s", j.obs.Kernel.Symbols, seen),
			Expected:    fmt.Sprintf("%d symbols, digest %v", j.image.Symbols.Len(), want),
			Explanation: "the symbols that the scan found in the target, and went by, are not those of the image",
		})
	}
	return nil
}
