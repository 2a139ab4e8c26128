package attest_test

import (
	"fmt"
	"log"
	"os"

	"github.com/plumbline-sec/plumbline/attest"
)

// Evidence of a real boot is judged by a policy that asks for Secure Boot. The
// nonce is what the verifier gave out, the key the one the machine enrolled.
func Example() {
	data, err := os.ReadFile("testdata/lab/evidence.json")
	if err != nil {
		log.Fatal(err)
	}
	ev, err := attest.DecodeEvidence(data)
	if err != nil {
		log.Fatal(err)
	}
	policy, err := attest.ParsePolicy([]byte(`
		[secure_boot]
		required = true
	`))
	if err != nil {
		log.Fatal(err)
	}
	enrolled := ev.AK // kept by the verifier since enrolment
	result, err := attest.Verify(ev, policy, attest.VerifyOptions{Nonce: labNonce, AK: enrolled})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(result.Outcome)
	fmt.Println(result.Claims.Boot[0])

	result, err = attest.Verify(ev, policy, attest.VerifyOptions{Nonce: []byte("asked today"), AK: enrolled})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(result.Outcome)
	// Output:
	// pass
	// Secure Boot was on.
	// fail
}
