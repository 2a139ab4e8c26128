package userlog_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/attest/userlog"
)

const (
	phase = "\x1e" + `{"pcr":11,"digests":[{"hashAlg":"sha256","digest":"0a0b"}],"content_type":"systemd","content":{"string":"sysinit","bootId":"x","timestamp":1,"eventType":"phase"}}` + "\n"
	nv    = "\x1e" + `{"nv_index":4711,"digests":[{"hashAlg":"sha256","digest":"0a"}],"content_type":"systemd","content":{"string":"s"}}` + "\n"
)

func TestParse(t *testing.T) {
	got, err := userlog.Parse([]byte(phase + nv + phase))
	if err != nil {
		t.Fatal(err)
	}
	first := userlog.Event{PCR: 11, Digests: map[string][]byte{"sha256": {10, 11}}, Type: "phase", Text: "sysinit"}
	second := first
	second.Index = 1
	if diff := cmp.Diff([]userlog.Event{first, second}, got); diff != "" {
		t.Error(diff)
	}
}

func TestDamagedLogKeepsItsStart(t *testing.T) {
	for name, damaged := range map[string]string{
		"cut":           phase[:30],
		"PCR 24":        strings.Replace(phase, "11", "24", 1),
		"bad digest":    strings.Replace(phase, "0a0b", "xx", 1),
		"long digest":   strings.Replace(phase, "0a0b", strings.Repeat("00", 65), 1),
		"no object":     "\x1e[]\n",
		"another value": strings.Replace(phase, "11", `"11"`, 1),
	} {
		got, err := userlog.Parse([]byte(phase + damaged))
		if !errors.Is(err, userlog.ErrFormat) || len(got) != 1 {
			t.Errorf("%s: %d events, %v", name, len(got), err)
		}
	}
}

// FuzzParse: events of existing PCRs, numbered, whatever the input.
func FuzzParse(f *testing.F) {
	f.Add([]byte(phase + nv + phase))
	f.Fuzz(func(t *testing.T, data []byte) {
		events, err := userlog.Parse(data)
		if err != nil && !errors.Is(err, userlog.ErrFormat) {
			t.Fatal(err)
		}
		for i, e := range events {
			if e.Index != i || e.PCR < 0 || e.PCR > 23 {
				t.Fatalf("event %d: %+v", i, e)
			}
		}
	})
}
