package verifier

import (
	"context"
	"fmt"
	"net/http"

	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store"
)

// A TPM that asks for the name of another is what a replaced main board looks like, and
// what an attacker would do. It has to prove itself as any other, and is then held back
// until a person accepts it as the replacement, whatever its certificate says. The same
// decision retires the machine that had the name; until then that one is in service.

// askReplacement puts it before a person that a TPM asks for the name that m has.
func (v *Verifier) askReplacement(ctx context.Context, m *machine, e *doc[enrolment], why string) (*remote.EnrolResult, error) {
	e.V.Replaces = fingerprintOf(m.EKPublic)
	item := remote.Review{Kind: reviewReplacement,
		Summary: fmt.Sprintf("another TPM asks for the name %s, as a %s", m.Name, e.V.Request.Role),
		Detail: fmt.Sprintf("%s is enrolled with the TPM of EK digest %s since %s. This one proved that it holds both its keys. Accepting it retires the machine that has the name: "+
			"do so only if you know that its TPM was replaced, and compare the EK digest with the machine's own.", m.Name, e.V.Replaces, clock(m.Enrolment.At)),
	}
	if e.V.Request.Role != m.Role {
		item.Detail += fmt.Sprintf(" %s is enrolled as a %s; this one would be a %s", m.Name, m.Role, e.V.Request.Role)
		if e.V.Request.Role == remote.RoleHost {
			item.Detail += ", which may report about other machines"
		}
		item.Detail += "."
	}
	if why != "" {
		item.Detail += " Besides: " + why + "."
	}
	again, err := v.askedBefore(ctx, e)
	if err != nil {
		return nil, err
	}
	severity := remote.SeverityAlert
	if len(again) > 0 {
		severity = remote.SeverityInfo // it was told
	}
	return waitsToReplace(e), v.apply(ctx, nil, append(again, v.askPerson(e, item, severity)...)...)
}

func waitsToReplace(e *doc[enrolment]) *remote.EnrolResult {
	return &remote.EnrolResult{State: remote.EnrolWaiting,
		Reason: "another TPM is enrolled as " + e.V.Request.Name + ": an administrator has to accept this one as its replacement"}
}

// askedBefore closes what the same TPM asked for the same name before: an agent that
// restarts asks anew, and a person is to decide once.
func (v *Verifier) askedBefore(ctx context.Context, e *doc[enrolment]) (changes []store.Change, err error) {
	docs, err := list[reviewEntry](ctx, v.store, store.Query{Collection: inReviews, Machine: e.V.Request.Name, State: reviewOpen})
	if err != nil {
		return nil, err
	}
	for _, d := range docs {
		if d.V.Kind == reviewReplacement && d.V.Subject == fingerprintOf(e.V.Request.EKPublic) {
			d.V.State, d.V.DecidedAt, d.V.Reason = reviewReplaced, v.now(), "the same TPM asked again"
			changes = append(changes, d.change(), remove(inEnrolments, d.Key))
		}
	}
	return changes, nil
}

// decideReplacement carries out a decision on a TPM that asks for the name that m has.
func (v *Verifier) decideReplacement(ctx context.Context, m *machine, id, author string, d remote.Decision) ([]store.Change, error) {
	e, err := v.asking(ctx, id)
	if err != nil {
		return nil, err
	}
	if !d.Accept {
		e.V.Refused = "refused as a replacement: " + d.Reason
		return []store.Change{e.change()}, nil
	}
	if err := v.vouch(ctx, m, &e.V, author, d.Reason); err != nil {
		return nil, err
	}
	if err := v.certify(e); err != nil {
		return nil, err
	}
	e.V.Expires = v.now().Add(approvalLife) // the agent has not heard of it yet
	if !m.enrolled() {
		return v.admit(ctx, m, e) // that machine was retired meanwhile, or its name is in service again
	}
	if fingerprintOf(m.EKPublic) != e.V.Replaces {
		return nil, apiError(http.StatusConflict, remote.CodeConflict, "a third TPM is enrolled as "+m.Name+" by now",
			"reject this one; if it asks again, you are asked about the one that has the name then")
	}
	old := *m
	changes, err := v.retire(ctx, m, &remote.Retirement{ID: identityOf(m.Name), Name: m.Name, At: v.now(), By: author, Reason: d.Reason,
		ReplacedBy: e.V.Approval.EKDigest}, id)
	if err != nil {
		return nil, err
	}
	admitted, err := v.admit(ctx, m, e)
	if err != nil {
		return nil, err
	}
	kept, err := v.keepFiles(ctx, m, &old)
	return append(append(changes, admitted...), kept...), err
}

// vouch approves a TPM with a person's word: by what speaks for it anyway, so that it is
// kept, otherwise by that word alone.
func (v *Verifier) vouch(ctx context.Context, m *machine, e *enrolment, author, reason string) error {
	approval, code, why, err := v.approveAlone(ctx, m, e)
	if err != nil {
		return err
	}
	word := author + ": " + reason
	switch {
	case approval != nil:
		e.Approval = *approval
		e.Approval.Detail += "; as the replacement, " + word
	case v.config.Enrolment.approves(ApproveOperator):
		e.Approval = remote.Enrolment{Approval: string(ApproveOperator), Detail: word, EKDigest: e.identity().Fingerprint().String()}
	default:
		return apiError(http.StatusConflict, code, "this TPM is not accepted: "+why, "")
	}
	return nil
}

// keepFiles has the replacement held to the baseline of the files of the machine that it
// replaces: whoever watches them is another machine, which goes on. They are compared
// anew, and what people accepted of the old machine they are asked about again.
func (v *Verifier) keepFiles(ctx context.Context, m, old *machine) ([]store.Change, error) {
	m.MeasuredBy = old.MeasuredBy
	if old.Files.Baseline == "" || old.MeasuredBy == "" {
		return nil, nil
	}
	m.Files = remote.Files{Watched: old.Files.Watched, Baseline: old.Files.Baseline, Objects: old.Files.Objects,
		BaselineAt: old.Files.BaselineAt, Origin: old.Files.Origin}
	m.Watcher = old.Watcher
	m.Stream, m.Sequence, m.LostFirst, m.LostLast = old.Stream, old.Sequence, old.LostFirst, old.LostLast
	return v.lose(ctx, m, "the machine was replaced")
}
