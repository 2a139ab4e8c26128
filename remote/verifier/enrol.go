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
	if err := v.refuseTakenName(ctx, &e.Request); err != nil {
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

// refuseTakenName keeps a stranger's TPM from taking an enrolled name.
func (v *Verifier) refuseTakenName(ctx context.Context, req *remote.EnrolRequest) error {
	m, err := v.loadMachine(ctx, req.Name)
	if err != nil {
		return err
	}
	return nameTaken(&m.V, req)
}

// nameTaken is the error for a name that another TPM stands for.
func nameTaken(m *machine, req *remote.EnrolRequest) error {
	if m.enrolled() && !standsFor(m, req) {
		return apiError(http.StatusConflict, remote.CodeConflict,
			"another TPM is enrolled as "+req.Name, "a name stays with the TPM that enrolled under it: enrol this one under another")
	}
	return nil
}

// standsFor says that the TPM in a request is the one enrolled as m.
func standsFor(m *machine, req *remote.EnrolRequest) bool {
	return m.enrolled() && subtle.ConstantTimeCompare(m.EKPublic, req.EKPublic) == 1
}

// otherName is the name that the TPM in a request already stands for, "" when
// there is none but the one it asks for. One TPM under two names would let a
// machine vouch for another; only a person may allow that.
func (v *Verifier) otherName(ctx context.Context, e *enrolment) (claim *doc[string], other string, err error) {
	claim, err = loadOrNew[string](ctx, v.store, inKeys, e.identity().Fingerprint().String())
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
	switch {
	case e.V.Refused != "":
		return &remote.EnrolResult{State: remote.EnrolRefused, Reason: e.V.Refused}, nil
	case len(e.V.Certificate) > 0:
		return v.enrolled(e.V.Certificate), nil
	case e.V.Approval.Approval == "":
		approval, why := v.approve(&e.V)
		_, other, err := v.otherName(ctx, &e.V)
		if err != nil {
			return nil, err
		}
		if other != "" {
			approval, why = nil, "this TPM is enrolled as "+other
		}
		if approval == nil {
			approval = v.approvedBefore(ctx, &e.V)
		}
		if approval == nil && v.config.Enrolment.approves(ApproveOperator) {
			return v.askOperator(ctx, e, why)
		}
		if approval == nil {
			return nil, apiError(http.StatusForbidden, remote.CodeForbidden, "this TPM is not accepted: "+why, "")
		}
		e.V.Approval = *approval
	}
	return v.issue(ctx, e)
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
	e.V.Proven, e.V.Expires = true, v.now().Add(approvalLife)
	digest := e.V.identity().Fingerprint().String()
	review := remote.Review{
		ID: e.Key, Kind: reviewEnrolment, Machine: e.V.Request.Name, Subject: digest, Count: 1,
		Summary: fmt.Sprintf("%s asks to be enrolled as a %s", e.V.Request.Name, e.V.Request.Role),
		Detail:  "The TPM proved that it holds both keys. Compare the EK digest with the machine's own before you accept: " + why + ".",
		First:   v.now(), Last: v.now(), State: reviewOpen,
	}
	changes := []store.Change{e.change(), create(inReviews, review.ID, review.Machine, v.now(), reviewEntry{Review: review})}
	changes = append(changes, v.moment(remote.Moment{Machine: review.Machine, Kind: "enrolment",
		Severity: remote.SeverityNotice, Text: review.Summary + " and waits for approval", Ref: review.ID})...)
	return waiting, v.apply(ctx, nil, changes...)
}

// issue gives the agent its certificate and stores the machine's keys.
func (v *Verifier) issue(ctx context.Context, e *doc[enrolment]) (*remote.EnrolResult, error) {
	cert, err := v.authority.agentCertificate(e.V.Request.Name, e.V.Request.CSR)
	if err != nil {
		return nil, badRequest(err)
	}
	e.V.Certificate = cert.Raw
	e.V.Expires = v.now().Add(challengeLife)
	approval := e.V.Approval
	approval.At, approval.Serial = v.now(), serial(cert)
	err = v.changeMachine(ctx, e.V.Request.Name, nil, func(m *machine) ([]store.Change, error) {
		// Decided with the commit: of two that enrol at once, one is refused.
		if err := nameTaken(m, &e.V.Request); err != nil {
			return nil, err
		}
		claim, other, err := v.otherName(ctx, &e.V)
		if err != nil {
			return nil, err
		}
		if other != "" && approval.Approval != string(ApproveOperator) {
			return nil, apiError(http.StatusForbidden, remote.CodeForbidden, "this TPM is enrolled as "+other, "an operator may approve a second name")
		}
		claim.V, claim.Machine, claim.Time = m.Name, m.Name, v.now()
		m.Role, m.Enrolment = e.V.Request.Role, approval
		m.EKPublic, m.AKPublic = e.V.Request.EKPublic, e.V.Request.AKPublic
		v.refresh(m)
		changes := []store.Change{e.change(), claim.change()}
		return append(changes, v.moment(remote.Moment{Machine: m.Name, Kind: "enrolment", Severity: remote.SeverityNotice,
			Text: fmt.Sprintf("%s enrolled, approved by %s: %s", m.Name, approvalWords(approval), approval.Detail)})...), nil
	})
	if err != nil {
		return nil, err
	}
	return v.enrolled(cert.Raw), nil
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
	e, err := load[enrolment](ctx, v.store, inEnrolments, id)
	if isNotFound(err) || err == nil && v.now().After(e.V.Expires) {
		return nil, apiError(http.StatusConflict, remote.CodeConflict, "the enrolment has expired", "let the agent ask again")
	}
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
		return nil, apiError(http.StatusUnauthorized, remote.CodeUnauth, "the client certificate was withdrawn or replaced", "enrol again")
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
