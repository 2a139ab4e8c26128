package attest

import (
	"fmt"
	"strconv"
)

// checkPCRs compares values that the policy fixes; nil when it fixes none.
func (a *appraisal) checkPCRs(want map[string][]Hex) *Check {
	if len(want) == 0 {
		return nil
	}
	c := &Check{Name: CheckPCRs, Outcome: Pass}
	if a.quoteErr != nil {
		c.Outcome, c.Reason = NotMeasured, "the quote does not verify"
		return c
	}
	for pcr := range 24 {
		allowed := want[strconv.Itoa(pcr)]
		if len(allowed) == 0 {
			continue
		}
		value, quoted := a.pcrs[pcr]
		switch {
		case !quoted:
			c.unmeasured(Finding{PCR: number(pcr), Expected: oneOf(allowed),
				Explanation: fmt.Sprintf("the quote does not cover PCR %d", pcr)})
		case !contains(allowed, value):
			c.fail(Finding{PCR: number(pcr), Expected: oneOf(allowed), Observed: value.String(),
				Explanation: fmt.Sprintf("PCR %d has a value that the policy does not list; plumbline attest explain tells its events", pcr)})
		}
	}
	return c
}
