package check

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel/xen"
)

// xen.domains: the domains that Xen runs, by the list of them and by the table
// that finds them by number, which must agree; and whether any is
// hardware-assisted, so that memory is given to it through EPT or NPT.
//
// Proves: which domains there are, and for PV domains alone that no second-level
// page tables give one memory of Xen's: they have none (what their own tables
// reach is for xen.pagetables). Trusts: Xen's text, from which the scan takes
// where members lie (xen.text judges it). With a hardware-assisted domain it is
// not measured: its EPT or NPT is not read. What a domain runs is a target of its
// own and not measured by this scan, the first domain's kernel included.
const xenDomainsName = "xen.domains"

func xenDomainsCheck() check {
	return check{name: xenDomainsName, collect: collectXenDomains, judge: judgeXenDomains}
}

func collectXenDomains(c *collector) (any, measure.Coverage, error) {
	var domains []xen.Domain
	var err error
	for range moduleAttempts { // domains come and go while they are read
		if domains, err = c.xen.Domains(); err == nil {
			break
		}
	}
	return domains, measure.Coverage{Objects: int64(len(domains)), Total: int64(len(domains))}, err
}

func judgeXenDomains(_ *judging, raw json.RawMessage, out *measure.Check) error {
	var domains []xen.Domain
	if err := decode(raw, &domains); err != nil {
		return err
	}
	if len(domains) == 0 {
		return errNotObserved
	}
	var assisted []string
	for _, d := range domains {
		if !d.Listed || !d.Hashed {
			out.Findings = append(out.Findings, measure.Finding{Address: d.At.String(), Symbol: fmt.Sprintf("domain %d", d.ID),
				Observed: map[bool]string{true: "in the list of domains alone", false: "in the table of domains alone"}[d.Listed],
				Expected: "in both", Explanation: "a domain is hidden from one of Xen's views of them"})
		}
		if d.Assisted {
			assisted = append(assisted, fmt.Sprint(d.ID))
		}
	}
	if len(assisted) > 0 {
		return fmt.Errorf("the second-level page tables of hardware-assisted domains (%s) are not read", strings.Join(assisted, ", "))
	}
	out.Reason = fmt.Sprintf("PV domains only (%d), which have no second-level page tables; their kernels are targets that this scan does not measure", len(domains))
	return nil
}
