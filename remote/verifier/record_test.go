package verifier

import (
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/measure/oob/wire"
	"github.com/plumbline-sec/plumbline/remote"
)

// A nonce that travels in a record is no longer than what the record carries, and
// the answer to it counts.
func TestScanByRecord(t *testing.T) {
	r := start(t, `
listen = "127.0.0.1:0"
[[host]]
name = "metal"
scan_every = "1h"
scan_timeout = "10m"
bmc = { address = "192.0.2.1", username = "operator", password = "x", record = true }
`)
	metal := r.enrol(t, "metal", remote.RoleHost)
	fired, err := r.client.StartScan(t.Context(), "metal")
	if err != nil {
		t.Fatal(err)
	}
	nonce := r.rung(t, 1)
	payload := wire.SELRecord(nonce)
	carried, err := wire.ParseSELRecord(payload[:])
	if err != nil {
		t.Fatal(err)
	}
	var whole remote.Nonce
	copy(whole[:], carried[:])
	if whole != nonce || strings.HasPrefix(nonce.String(), "00000000") {
		t.Fatalf("nonce %s, of which a record carries %x", nonce, carried)
	}
	metal.send(remote.KindScan, metal.scan("metal", whole, item("pass")))
	if scan, err := r.client.Scan(t.Context(), fired.ID, 30); err != nil || scan.Outcome != remote.OutcomePass {
		t.Errorf("scan: %+v, %v", scan, err)
	}
}
