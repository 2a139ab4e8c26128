package verifier

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/plumbline-sec/plumbline/attest"
	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store"
)

// Limits of enrolment, which strangers may ask for.
const (
	maxEnrolBytes   = 64 << 10 // eight certificates are a third of that
	maxCertificates = 8
	challengeLife   = 10 * time.Minute
	approvalLife    = 7 * 24 * time.Hour
	maxChallenges   = 1000 // open at a time
)

// enrolment is one attempt of an agent to enrol.
type enrolment struct {
	Request remote.EnrolRequest `json:"request"`
	Secret  []byte              `json:"secret"` // SHA-256 of what activation yields
	Expires time.Time           `json:"expires"`
	Proven  bool                `json:"proven"`  // activation has succeeded
	Refused string              `json:"refused"` // an operator's reason
	// Replaces is the EK digest of the TPM whose name this one asks for: a person decides.
	Replaces string `json:"replaces,omitempty"`
	// Approval is set once someone or something has accepted the TPM.
	Approval remote.Enrolment `json:"approval,omitzero"`
	// Certificate is what was issued, so that a lost answer can be repeated.
	Certificate []byte `json:"certificate,omitempty"`
}

func (e *enrolment) identity() *attest.Identity {
	return &attest.Identity{EKCertificates: e.Request.EKCertificates, EK: e.Request.EKPublic, AK: e.Request.AKPublic}
}

// handleEnrol is POST /v1/enrol.
func (v *Verifier) handleEnrol(w http.ResponseWriter, r *http.Request) (any, error) {
	if !v.people.enrolments.allow(clientAddress(r)) {
		return nil, tooMany()
	}
	var e enrolment
	if err := readJSON(w, r, maxEnrolBytes, &e.Request); err != nil {
		return nil, err
	}
	if err := checkEnrolRequest(&e.Request); err != nil {
		return nil, badRequest(err)
	}
	ctx := r.Context()
	if err := v.refuseTakenName(ctx, &e); err != nil {
		return nil, err
	}
	open, err := v.store.List(ctx, store.Query{Collection: inEnrolments, Limit: maxChallenges, Bare: true})
	if err != nil {
		return nil, err
	}
	if len(open) == maxChallenges {
		return nil, tooMany()
	}
	challenge, secret, err := attest.NewChallenge(e.identity())
	if err != nil {
		return nil, badRequest(err)
	}
	sum := sha256.Sum256(secret)
	e.Secret, e.Expires = sum[:], v.now().Add(challengeLife)
	id := newID()
	if err := v.apply(ctx, nil, create(inEnrolments, id, e.Request.Name, v.now(), e)); err != nil {
		return nil, err
	}
	return remote.EnrolChallenge{ID: id, CredentialBlob: challenge.Credential, EncryptedSecret: challenge.Secret}, nil
}

func checkEnrolRequest(req *remote.EnrolRequest) error {
	if err := remote.CheckName(req.Name); err != nil {
		return err
	}
	if req.Role != remote.RoleHost && req.Role != remote.RoleGuest {
		return fmt.Errorf("role %q: want host or guest", req.Role)
	}
	if len(req.EKCertificates) > maxCertificates {
		return fmt.Errorf("%d EK certificates, at most %d", len(req.EKCertificates), maxCertificates)
	}
	if _, err := parseRequest(req.CSR); err != nil {
		return fmt.Errorf("certificate request: %w", err)
	}
	return nil
}

// refuseTakenName refuses a TPM that asks for the name of another, unless it is one that
// could replace it: it is asked to prove itself then, and a person decides.
func (v *Verifier) refuseTakenName(ctx context.Context, e *enrolment) error {
	m, err := v.loadMachine(ctx, e.Request.Name)
	if err != nil {
		return err
	}
	if approval, _ := v.approve(e); approval != nil || v.config.Enrolment.approves(ApproveOperator) {
		return nil
	}
	return nameTaken(&m.V, &e.Request)
}

// nameTaken is the error for a name that another TPM stands for.
func nameTaken(m *machine, req *remote.EnrolRequest) error {
	if m.enrolled() && !standsFor(m, req) {
		return apiError(http.StatusConflict, remote.CodeConflict,
			"another TPM is enrolled as "+req.Name, "retire that machine first, or enrol this one under another name")
	}
	return nil
}

// standsFor says that the TPM in a request is the one enrolled as m.
func standsFor(m *machine, req *remote.EnrolRequest) bool {
	return m.enrolled() && keyOf(m.EKPublic) == keyOf(req.EKPublic)
}

// keyOf is what a TPM is told from others by: the key of its EK, whatever the public area
// says of it beside, which whoever asks may choose.
func keyOf(ek []byte) string {
	id := attest.Identity{EK: ek}
	digest, err := id.KeyDigest()
	if err != nil { // no TPM proves that it has such a one
		digest = id.Fingerprint()
	}
	return digest.String()
}

// otherName is the name that the TPM in a request already stands for, "" when
// there is none but the one it asks for. One TPM under two names would let a
// machine vouch for another; only a person may allow that.
func (v *Verifier) otherName(ctx context.Context, e *enrolment) (claim *doc[string], other string, err error) {
	claim, err = loadOrNew[string](ctx, v.store, inKeys, keyOf(e.Request.EKPublic))
	if err != nil || claim.V == "" || claim.V == e.Request.Name {
		return claim, "", err
	}
	same, err := v.loadMachine(ctx, e.Request.Name)
	if err != nil {
		return nil, "", err
	}
	holder, err := v.loadMachine(ctx, claim.V)
	if err != nil {
		return nil, "", err
	}
	if standsFor(&same.V, &e.Request) || !standsFor(&holder.V, &e.Request) {
		return claim, "", nil // enrolled under this name before, or no longer under the other
	}
	return claim, claim.V, nil
}

// renewClaims keeps under keyOf the EK which name a TPM stands for, where a version of
// before kept it under the digest of the public area.
func (v *Verifier) renewClaims(ctx context.Context) error {
	docs, err := list[machine](ctx, v.store, store.Query{Collection: inMachines})
	if err != nil {
		return err
	}
	for _, d := range docs {
		if !d.V.enrolled() {
			continue
		}
		claim, err := loadOrNew[string](ctx, v.store, inKeys, keyOf(d.V.EKPublic))
		if err != nil {
			return err
		}
		if claim.Version != 0 {
			continue
		}
		claim.V, claim.Machine, claim.Time = d.Key, d.Key, v.now()
		if err := v.store.Apply(ctx, nil, claim.change()); err != nil && !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return nil
}

// handleAnswer is POST /v1/enrol/{id}.
func (v *Verifier) handleAnswer(w http.ResponseWriter, r *http.Request) (any, error) {
	if !v.people.enrolments.allow(clientAddress(r)) {
		return nil, tooMany()
	}
	var answer remote.EnrolAnswer
	if err := readJSON(w, r, maxEnrolBytes, &answer); err != nil {
		return nil, err
	}
	id := r.PathValue("id")
	var result *remote.EnrolResult
	err := again(func() error {
		e, err := load[enrolment](r.Context(), v.store, inEnrolments, id)
		if isNotFound(err) || err == nil && v.now().After(e.V.Expires) {
			return notFound("enrolment")
		}
		if err != nil {
			return err
		}
		sum := sha256.Sum256(answer.Secret)
		if subtle.ConstantTimeCompare(sum[:], e.V.Secret) != 1 {
			v.metrics.refused.WithLabelValues("enrolment").Inc()
			return apiError(http.StatusForbidden, remote.CodeForbidden, "the secret is wrong: the TPM does not hold both keys", "")
		}
		result, err = v.settle(r.Context(), e)
		return err
	})
	if err != nil {
		return nil, err
	}
	return result, nil
}

// settle finishes a proven enrolment as far as it can.
func (v *Verifier) settle(ctx context.Context, e *doc[enrolment]) (*remote.EnrolResult, error) {
	v.turnover.RLock()
	defer v.turnover.RUnlock()
	switch {
	case e.V.Refused != "":
		return &remote.EnrolResult{State: remote.EnrolRefused, Reason: e.V.Refused}, nil
	case len(e.V.Certificate) > 0:
		return v.enrolled(e.V.Certificate), nil
	case e.V.Replaces != "" && e.V.Approval.Approval == "":
		return waitsToReplace(e), nil
	case e.V.Approval.Approval == "":
		m, err := v.loadMachine(ctx, e.V.Request.Name)
		if err != nil {
			return nil, err
		}
		approval, code, why, err := v.approveAlone(ctx, &m.V, &e.V)
		if err != nil {
			return nil, err
		}
		operator := v.config.Enrolment.approves(ApproveOperator)
		taken := nameTaken(&m.V, &e.V.Request)
		switch {
		case taken != nil && (approval != nil || operator):
			return v.askReplacement(ctx, &m.V, e, why)
		case approval == nil && operator:
			return v.askOperator(ctx, e, why)
		case approval == nil:
			return nil, apiError(http.StatusForbidden, code, "this TPM is not accepted: "+why, "")
		}
		e.V.Approval = *approval
	}
	return v.issue(ctx, e)
}

// approveAlone looks whether the TPM is accepted without a person, for the name that it
// asks for, which m has; otherwise why says what stands against it, and code how.
func (v *Verifier) approveAlone(ctx context.Context, m *machine, e *enrolment) (approval *remote.Enrolment, code, why string, err error) {
	_, other, err := v.otherName(ctx, e)
	if err != nil {
		return nil, "", "", err
	}
	gone, err := v.refusedEK(ctx, m, &e.Request)
	if err != nil {
		return nil, "", "", err
	}
	switch {
	case gone != nil:
		return nil, remote.CodeRetired, wasRetired(gone), nil
	case other != "":
		why = "this TPM is enrolled as " + other
	default:
		approval, why = v.approve(e)
	}
	if approval == nil {
		approval = v.approvedBefore(ctx, e)
	}
	return approval, remote.CodeForbidden, why, nil
}

// approve looks whether the TPM is accepted without a person; otherwise why
// says what stands against it.
func (v *Verifier) approve(e *enrolment) (approval *remote.Enrolment, why string) {
	id := e.identity()
	digest := id.Fingerprint().String()
	var against []string
	if v.config.Enrolment.approves(ApproveCA) {
		cert, err := attest.VerifyEK(id, v.ekBetween, v.ekRoots)
		if err == nil {
			return &remote.Enrolment{Approval: string(ApproveCA), Detail: cert.Issuer.String(), EKDigest: digest}, ""
		}
		against = append(against, err.Error())
	}
	if v.config.Enrolment.approves(ApproveDigest) {
		for _, l := range v.config.Enrolment.Digests {
			if l.Digest == digest {
				return &remote.Enrolment{Approval: string(ApproveDigest), Detail: l.Label, EKDigest: digest}, ""
			}
		}
		against = append(against, "its EK digest is not listed")
	}
	if len(against) == 0 {
		against = append(against, "no authority and no digest list is configured")
	}
	return nil, strings.Join(against, "; ")
}

// approvedBefore finds an operator's earlier approval of the same TPM under
// the same name and in the same role: enrolling again asks nobody twice. A guest
// that was approved must not make itself a host, who reports about others.
func (v *Verifier) approvedBefore(ctx context.Context, e *enrolment) *remote.Enrolment {
	m, err := load[machine](ctx, v.store, inMachines, e.Request.Name)
	if err != nil || m.V.Enrolment.Approval != string(ApproveOperator) || !v.config.Enrolment.approves(ApproveOperator) ||
		m.V.Role != e.Request.Role || subtle.ConstantTimeCompare(m.V.EKPublic, e.Request.EKPublic) != 1 {
		return nil
	}
	return &m.V.Enrolment
}

// askOperator puts the enrolment into the review queue.
func (v *Verifier) askOperator(ctx context.Context, e *doc[enrolment], why string) (*remote.EnrolResult, error) {
	waiting := &remote.EnrolResult{State: remote.EnrolWaiting, Reason: why}
	if e.V.Proven {
		return waiting, nil
	}
	item := remote.Review{Kind: reviewEnrolment,
		Summary: fmt.Sprintf("%s asks to be enrolled as a %s", e.V.Request.Name, e.V.Request.Role),
		Detail:  "The TPM proved that it holds both keys. Compare the EK digest with the machine's own before you accept: " + why + ".",
	}
	return waiting, v.apply(ctx, nil, v.askPerson(e, item, remote.SeverityNotice)...)
}

// askPerson makes the changes that put a proven enrolment before a person.
func (v *Verifier) askPerson(e *doc[enrolment], item remote.Review, severity remote.Severity) []store.Change {
	e.V.Proven, e.V.Expires = true, v.now().Add(approvalLife)
	item.ID, item.Machine, item.Subject, item.Count = e.Key, e.V.Request.Name, e.V.identity().Fingerprint().String(), 1
	item.First, item.Last, item.State = v.now(), v.now(), reviewOpen
	changes := []store.Change{e.change(), create(inReviews, item.ID, item.Machine, v.now(), reviewEntry{Review: item})}
	return append(changes, v.moment(remote.Moment{Machine: item.Machine, Kind: "enrolment",
		Severity: severity, Text: item.Summary + " and waits for approval", Ref: item.ID})...)
}

// issue gives the agent its certificate and stores the machine's keys.
func (v *Verifier) issue(ctx context.Context, e *doc[enrolment]) (*remote.EnrolResult, error) {
	if err := v.certify(e); err != nil {
		return nil, err
	}
	err := v.changeName(ctx, e.V.Request.Name, nil, func(m *machine) ([]store.Change, error) {
		return v.admit(ctx, m, e)
	})
	if err != nil {
		return nil, err
	}
	return v.enrolled(e.V.Certificate), nil
}

// certify makes the certificate of an enrolment that was approved.
func (v *Verifier) certify(e *doc[enrolment]) error {
	cert, err := v.authority.agentCertificate(e.V.Request.Name, e.V.Request.CSR)
	if err != nil {
		return badRequest(err)
	}
	e.V.Certificate = cert.Raw
	e.V.Expires = v.now().Add(challengeLife)
	e.V.Approval.At, e.V.Approval.Serial = v.now(), serial(cert)
	return nil
}

// admit has m stand for the TPM of an enrolment. It decides with the commit: of two that
// enrol at once, one is refused.
func (v *Verifier) admit(ctx context.Context, m *machine, e *doc[enrolment]) ([]store.Change, error) {
	if err := nameTaken(m, &e.V.Request); err != nil {
		return nil, err
	}
	claim, other, err := v.otherName(ctx, &e.V)
	if err != nil {
		return nil, err
	}
	gone, err := v.refusedEK(ctx, m, &e.V.Request)
	if err != nil {
		return nil, err
	}
	approval := e.V.Approval
	if approval.Approval != string(ApproveOperator) {
		switch {
		case other != "":
			return nil, apiError(http.StatusForbidden, remote.CodeForbidden, "this TPM is enrolled as "+other, "an operator may approve a second name")
		case gone != nil:
			return nil, apiError(http.StatusForbidden, remote.CodeRetired, wasRetired(gone), "an operator may approve it again")
		}
	}
	if m.Retired != nil {
		m.serve(v.now())
	}
	claim.V, claim.Machine, claim.Time = m.Name, m.Name, v.now()
	m.Role, m.Enrolment = e.V.Request.Role, approval
	m.EKPublic, m.AKPublic = e.V.Request.EKPublic, e.V.Request.AKPublic
	v.refresh(m)
	changes := []store.Change{e.change(), claim.change()}
	if gone != nil {
		changes = append(changes, remove(inRefusedEKs, claim.Key))
	}
	return append(changes, v.moment(remote.Moment{Machine: m.Name, Kind: "enrolment", Severity: remote.SeverityNotice,
		Text: fmt.Sprintf("%s enrolled, approved by %s: %s", m.Name, approvalWords(approval), approval.Detail)})...), nil
}

func approvalWords(e remote.Enrolment) string {
	switch Approval(e.Approval) {
	case ApproveCA:
		return "its EK certificate"
	case ApproveDigest:
		return "the list of EK digests"
	}
	return "an operator"
}

func (v *Verifier) enrolled(der []byte) *remote.EnrolResult {
	return &remote.EnrolResult{State: remote.EnrolDone, Certificate: encodeCertificate(der), CA: v.authority.pem}
}

func serial(cert *x509.Certificate) string { return hex.EncodeToString(cert.SerialNumber.Bytes()) }

// decideEnrolment carries out an operator's decision.
func (v *Verifier) decideEnrolment(ctx context.Context, id, author string, d remote.Decision) ([]store.Change, error) {
	e, err := v.asking(ctx, id)
	if err != nil {
		return nil, err
	}
	if d.Accept {
		e.V.Approval = remote.Enrolment{Approval: string(ApproveOperator), Detail: author + ": " + d.Reason,
			EKDigest: e.V.identity().Fingerprint().String()}
	} else {
		e.V.Refused = "refused by an operator: " + d.Reason
	}
	return []store.Change{e.change()}, nil
}

// asking is an enrolment that a person is asked about.
func (v *Verifier) asking(ctx context.Context, id string) (*doc[enrolment], error) {
	e, err := load[enrolment](ctx, v.store, inEnrolments, id)
	if isNotFound(err) || err == nil && v.now().After(e.V.Expires) {
		return nil, apiError(http.StatusConflict, remote.CodeConflict, "the enrolment has expired", "let the agent ask again")
	}
	return e, err
}

// expireEnrolments forgets attempts that were never finished.
func (v *Verifier) expireEnrolments(ctx context.Context) error {
	docs, err := list[enrolment](ctx, v.store, store.Query{Collection: inEnrolments})
	if err != nil {
		return err
	}
	var changes []store.Change
	for _, e := range docs {
		if v.now().After(e.V.Expires) {
			changes = append(changes, remove(inEnrolments, e.Key))
		}
	}
	if len(changes) == 0 {
		return nil
	}
	return v.store.Apply(ctx, nil, changes...)
}

// agentOf says which machine a request's client certificate stands for.
func (v *Verifier) agentOf(r *http.Request) (*machine, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil, apiError(http.StatusUnauthorized, remote.CodeUnauth, "no client certificate was shown", "enrol first: POST /v1/enrol")
	}
	cert := r.TLS.PeerCertificates[0]
	if err := v.authority.verifyAgent(cert); err != nil {
		v.metrics.refused.WithLabelValues("certificate").Inc()
		v.log.Warn("client certificate refused", "from", r.RemoteAddr, "subject", cert.Subject.String(), "error", err)
		return nil, apiError(http.StatusUnauthorized, remote.CodeUnauth, "the client certificate is not from this verifier, or has expired", "enrol again")
	}
	m, err := load[machine](r.Context(), v.store, inMachines, cert.Subject.CommonName)
	if isNotFound(err) || err == nil && m.V.Enrolment.Serial != serial(cert) {
		return nil, v.certificateRefused(r.Context(), cert.Subject.CommonName, serial(cert))
	}
	if err != nil {
		return nil, err
	}
	return &m.V, nil
}

var errNotItsTarget = errors.New("reports about a machine that is not its own to measure")

// mayReport says whether agent may report about target.
func mayReport(agent, target *machine) error {
	if target.Name == agent.Name || agent.Role == remote.RoleHost && target.MeasuredBy == agent.Name {
		return nil
	}
	return fmt.Errorf("%s %w: %s", agent.Name, errNotItsTarget, target.Name)
}
