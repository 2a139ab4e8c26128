//go:build lab

package verifier

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/plumbline-sec/plumbline/attest/tpm/tpmtest"
	"github.com/plumbline-sec/plumbline/remote"
)

// A TPM opens a challenge for its EK whatever the public area that was shown says of the
// key's policy, and the certificate is one for the key. Neither a second name nor the way
// back of a retired machine is to be had by showing another area.
func TestRefusesTPMWithAnotherPublicArea(t *testing.T) {
	e := tpmtest.Start(t)
	r := start(t, fmt.Sprintf("listen = \"127.0.0.1:0\"\n[enrolment]\napproval = [\"ca\"]\nca = [%q]\nintermediates = [%q]\n", e.RootFile, e.IntermediateFile))
	n := r.newcomer(t, e)
	if _, _, result, err := n.prove(n.request("host1")); err != nil || result.State != remote.EnrolDone {
		t.Fatalf("%+v, %v", result, err)
	}
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic](n.id.EK)
	if err != nil {
		t.Fatal(err)
	}
	area.AuthPolicy.Buffer[0] ^= 1
	n.id.EK = tpm2.Marshal(area)
	_, _, _, err = n.prove(n.request("host2"))
	wantAPIError(t, "a second name", err, http.StatusForbidden, remote.CodeForbidden)
	r.retired(t, "host1", "taken over")
	for _, name := range []string{"host1", "host2"} {
		_, _, _, err = n.prove(n.request(name))
		wantAPIError(t, "retired, as "+name, err, http.StatusForbidden, remote.CodeRetired)
	}
}
