//go:build lab

package eventlog_test

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/attest/eventlog"
)

// TestAgreesWithTPM2Tools reads the lab's log with tpm2_eventlog as well, which
// no one here wrote: number, PCR, type and digest of each event, and the replay.
func TestAgreesWithTPM2Tools(t *testing.T) {
	data, _ := labLog(t)
	file := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("tpm2_eventlog", file).Output()
	if err != nil {
		t.Fatalf("tpm2_eventlog (package tpm2-tools): %v", err)
	}
	log := parse(t, data)
	var ours []string
	for _, e := range log.Events {
		ours = append(ours, fmt.Sprintf("%d %d %s %x", e.Index, e.PCR, e.Type, e.Digests[0].Value))
	}
	registers, err := log.Replay(eventlog.Bank("sha256"))
	if err != nil {
		t.Fatal(err)
	}
	for pcr := range 24 {
		if r := registers[pcr]; r.Events > 0 {
			ours = append(ours, fmt.Sprintf("pcr %d %s", pcr, hex.EncodeToString(r.Value)))
		}
	}
	if diff := cmp.Diff(readPeer(out), ours); diff != "" {
		t.Errorf("tpm2_eventlog (-) and we (+) differ:\n%s", diff)
	}
}

// readPeer takes the fields that matter out of tpm2_eventlog's YAML.
func readPeer(out []byte) []string {
	var lines, event []string
	pcrs := false
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		key, value, _ := strings.Cut(strings.Trim(s.Text(), " -"), ":")
		key, value = strings.TrimSpace(key), strings.Trim(value, ` "`)
		switch {
		case key == "pcrs":
			pcrs = true
		case pcrs && strings.HasPrefix(value, "0x"):
			lines = append(lines, fmt.Sprintf("pcr %s %s", key, value[2:]))
		case key == "EventNum":
			event = []string{value}
		case key == "PCRIndex" || key == "EventType":
			event = append(event, value)
		case key == "Digest" && len(event) == 3:
			lines = append(lines, strings.Join(append(event, value), " "))
			event = nil
		}
	}
	return lines
}
