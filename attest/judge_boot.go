package attest

import (
	"bytes"
	"fmt"
	"iter"
	"strings"

	"github.com/plumbline-sec/plumbline/attest/eventlog"
)

// bootPCR is where the firmware measures what it starts (PFP 3.3.4.5).
const bootPCR = 4

// checkBoot asks whether each image that the firmware started is one that the
// policy allows; nil when the policy lists none.
//
// It proves the Authenticode digests. The file's path is the log's claim: no
// digest covers it. A unified kernel image's digest covers kernel, initrd and
// command line; a kernel without one covers only itself.
func (a *appraisal) checkBoot(allowed []AllowedImage) *Check {
	if len(allowed) == 0 {
		return nil
	}
	c := &Check{Name: CheckBoot, Outcome: Pass}
	if !a.reproduced(bootPCR) {
		c.Outcome, c.Reason = NotMeasured, "the event log does not lead to the quoted PCR 4"
		return c
	}
	var names []string
	for e := range a.events(bootPCR) {
		if a.isMarker(e) {
			continue
		}
		image := findImage(allowed, e.Digest(eventlog.Bank(a.algorithm)))
		if image == nil {
			c.fail(a.unknownImage(e, allowed))
			continue
		}
		names = append(names, image.Name)
	}
	if len(names) == 0 && c.Outcome == Pass {
		c.fail(Finding{Log: "tcg", PCR: number(bootPCR), Explanation: "the firmware started nothing that the policy lists"})
	}
	if c.Outcome == Pass {
		c.Reason = "started " + strings.Join(names, ", then ")
	}
	return c
}

// isMarker reports whether an event of PCR 4 is nothing that runs: a separator
// or an action. The type alone would not do, it is the log's claim: an image's
// event passed off as an action has a digest that is not its text's.
func (a *appraisal) isMarker(e *eventlog.Event) bool {
	if !e.Bound(eventlog.Bank(a.algorithm)) {
		return false
	}
	return isAction(e) || e.Type == eventlog.Separator && eventlog.SeparatorOK(e.Data)
}

func (a *appraisal) unknownImage(e *eventlog.Event, allowed []AllowedImage) Finding {
	f := eventFinding(e)
	f.File = imagePath(e)
	f.Observed = Hex(e.Digest(eventlog.Bank(a.algorithm))).String()
	var want []string
	for _, image := range allowed[:min(len(allowed), 4)] {
		want = append(want, fmt.Sprintf("%s (%s)", image.Digest, image.Name))
	}
	f.Expected = strings.Join(want, " or ")
	if len(allowed) > 4 {
		f.Expected += fmt.Sprintf(" or %d more", len(allowed)-4)
	}
	switch {
	case e.Type != eventlog.BootApplication && e.Type != eventlog.BootDriver && e.Type != eventlog.RuntimeDriver:
		f.Explanation = fmt.Sprintf("%s (%s) extended PCR 4, and the policy lists no such digest", e.Type, e.Describe())
	case f.File == "":
		f.Explanation = fmt.Sprintf("the firmware started an image that the policy does not list: %s", e.Describe())
	default:
		f.Explanation = fmt.Sprintf("the firmware started %s, whose digest the policy does not list", f.File)
	}
	return f
}

// imagePath is the file an image event claims, or its whole device path.
func imagePath(e *eventlog.Event) string {
	image, err := e.Image()
	if err != nil {
		return ""
	}
	if image.Path.File != "" {
		return image.Path.File
	}
	return image.Path.Text
}

func findImage(allowed []AllowedImage, digest []byte) *AllowedImage {
	for i := range allowed {
		if bytes.Equal(allowed[i].Digest, digest) {
			return &allowed[i]
		}
	}
	return nil
}

// events yields the events that extended a PCR.
func (a *appraisal) events(pcr int) iter.Seq[*eventlog.Event] {
	return func(yield func(*eventlog.Event) bool) {
		for i := range a.log.Events {
			e := &a.log.Events[i]
			if e.PCR == pcr && e.Type != eventlog.NoAction && !yield(e) {
				return
			}
		}
	}
}
