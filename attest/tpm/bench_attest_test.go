//go:build bench

package tpm_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/attest/tpm"
	"github.com/plumbline-sec/plumbline/attest/tpm/tpmtest"
)

// TestBenchCollect prints what a machine pays: a quote with its PCR values, by
// swtpm.
func TestBenchCollect(t *testing.T) {
	dev, err := tpm.Open(tpmtest.Start(t).Path)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	ak, err := dev.CreateAK()
	if err != nil {
		t.Fatal(err)
	}
	const runs = 20
	start := time.Now()
	for range runs {
		if _, err := dev.Collect(ak, tpm.CollectOptions{Nonce: []byte("bench")}); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Printf("bench attest.collect %.3f ms\n", float64(time.Since(start).Microseconds())/1000/runs)
}
