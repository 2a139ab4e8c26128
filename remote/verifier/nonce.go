package verifier

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store"
)

// What a nonce may be used for.
const (
	forAttestation = "attestation"
	forScan        = "scan"
)

// nonceKept is how long a used or expired nonce is remembered, so that a
// replay is called by its name.
const nonceKept = 30 * 24 * time.Hour

// nonceEntry is a nonce that was given out.
type nonceEntry struct {
	Machine string    `json:"machine"`
	Purpose string    `json:"purpose"`
	Issued  time.Time `json:"issued"`
	Expires time.Time `json:"expires"`
	Used    time.Time `json:"used,omitzero"`
}

// Reasons why evidence is not fresh.
var (
	errNonceUnknown = errors.New("it answers a nonce that this verifier never gave out")
	errNonceUsed    = errors.New("it answers a nonce that was answered before: a replay")
	errNonceExpired = errors.New("it answers a nonce that has expired")
	errNonceOther   = errors.New("it answers a nonce that was given out for something else")
)

// issueNonce makes a nonce and the change that remembers it. Only its first size
// bytes are random, the rest are zeros: some ways to a machine carry no more.
func (v *Verifier) issueNonce(machine, purpose string, size int, life time.Duration) (remote.Nonce, store.Change) {
	n := newNonce()
	clear(n[size:])
	entry := nonceEntry{Machine: machine, Purpose: purpose, Issued: v.now(), Expires: v.now().Add(life)}
	return n, create(inNonces, n.String(), machine, v.now(), entry)
}

// useNonce checks that n may be answered for machine at the given time and
// returns the change that uses it up. Nothing is used up before the change is
// applied. Errors are badRecordErrors.
func (v *Verifier) useNonce(ctx context.Context, n remote.Nonce, machine, purpose string, at time.Time) (store.Change, error) {
	d, err := load[nonceEntry](ctx, v.store, inNonces, n.String())
	if isNotFound(err) {
		return store.Change{}, &badRecordError{errNonceUnknown}
	}
	if err != nil {
		return store.Change{}, err
	}
	switch {
	case d.V.Machine != machine || d.V.Purpose != purpose:
		err = fmt.Errorf("%w (%s of %s)", errNonceOther, d.V.Purpose, d.V.Machine)
	case !d.V.Used.IsZero():
		err = fmt.Errorf("%w of %s", errNonceUsed, d.V.Used.UTC().Format(time.RFC3339))
	case at.After(d.V.Expires):
		err = fmt.Errorf("%w at %s", errNonceExpired, d.V.Expires.UTC().Format(time.RFC3339))
	default:
		d.V.Used = at
		return d.change(), nil
	}
	return store.Change{}, &badRecordError{err}
}

// forgetNonces drops what is older than nonceKept.
func (v *Verifier) forgetNonces(ctx context.Context) error {
	docs, err := v.store.List(ctx, store.Query{Collection: inNonces})
	if err != nil {
		return err
	}
	var changes []store.Change
	for _, d := range docs {
		if v.now().Sub(d.Time) > nonceKept {
			changes = append(changes, remove(inNonces, d.Key))
		}
	}
	if len(changes) == 0 {
		return nil
	}
	return v.store.Apply(ctx, nil, changes...)
}
