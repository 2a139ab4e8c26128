package check

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// xen.domains: the domains that Xen runs, by the list of them and by the table
// that finds them by number, which must agree; and of each hardware-assisted one
// on an AMD processor the nested page tables (NPT) through which it has its memory.
//
// Proves: which domains there are, and that second-level page tables give none of
// them memory of Xen's or another's: PV domains have no such tables (what their
// own reach is for xen.pagetables); of the others each frame that is mapped, in a
// page of any size, is the domain's by Xen's frame table, and none is of Xen's
// image, page tables or frame table or of any nested table, whatever that says;
// the tables are a tree of frames that Xen keeps as such, and each CPU of the
// domain has nested paging on. Trusts: Xen's text, from which the scan takes where
// members lie (xen.text judges it), and for whose a frame is the frame table: who
// writes nested tables can write that too, but for Xen's own frames named above.
// Not measured: EPT, shadow page tables, and a domain with memory of others or of
// devices mapped as such, as what allows it is not read. What a domain runs is a
// target of its own and not measured by this scan, the first domain's kernel
// included.
const xenDomainsName = "xen.domains"

func xenDomainsCheck() check {
	return check{name: xenDomainsName, collect: collectXenDomains, judge: judgeXenDomains}
}

func collectXenDomains(c *collector) (any, measure.Coverage, error) {
	var domains []xenDomain
	var err error
	for range moduleAttempts { // domains come and go while they are read, and their memory
		var clean bool
		if domains, clean, err = c.readDomains(); err == nil && clean || errors.Is(err, errTooManyFrames) {
			break
		}
	}
	coverage := measure.Coverage{Objects: int64(len(domains)), Total: int64(len(domains))}
	for _, d := range domains {
		if d.Nested != nil {
			coverage.Bytes += d.Nested.Frames * mem.PageSize
		}
	}
	return domains, coverage, err
}

func (c *collector) readDomains() (domains []xenDomain, clean bool, err error) {
	list, err := c.xen.Domains()
	if err != nil {
		return nil, false, err
	}
	for _, d := range list {
		domains = append(domains, xenDomain{Domain: d})
	}
	clean, err = c.readNested(domains)
	return domains, clean, err
}

func judgeXenDomains(_ *judging, raw json.RawMessage, out *measure.Check) error {
	var domains []xenDomain
	if err := decode(raw, &domains); err != nil {
		return err
	}
	if len(domains) == 0 {
		return errNotObserved
	}
	var nested nestedRemarks
	for i := range domains {
		d := &domains[i]
		if !d.Listed || !d.Hashed {
			out.Findings = append(out.Findings, measure.Finding{Address: d.At.String(), Symbol: fmt.Sprintf("domain %d", d.ID),
				Observed: map[bool]string{true: "in the list of domains alone", false: "in the table of domains alone"}[d.Listed],
				Expected: "in both", Explanation: "a domain is hidden from one of Xen's views of them"})
		}
		if d.Assisted {
			nested.judgeNested(d, out)
		}
	}
	if len(nested.open) > 0 {
		return errors.New(strings.Join(nested.open, "; "))
	}
	const kernels = "their kernels are targets that this scan does not measure"
	if out.Reason = fmt.Sprintf("PV domains only (%d), which have no second-level page tables; %s", len(domains), kernels); len(nested.measured) > 0 {
		out.Reason = fmt.Sprintf("%d domains, %s; %s", len(domains), strings.Join(nested.measured, "; "), kernels)
	}
	return nil
}
