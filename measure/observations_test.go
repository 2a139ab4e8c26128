package measure

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func sample() *Observations {
	return &Observations{
		Version: Version,
		Target:  Target{Kind: "vm", Name: "web-1"},
		Nonce:   []byte{1, 2, 3},
		TakenAt: time.Date(2026, 11, 23, 7, 0, 0, 5, time.UTC),
		PauseNS: 1_000_000,
		Kernel:  Kernel{Release: "6.1.0", BuildID: "ab"},
		Items: []Observation{
			{Check: "linux.idt", Coverage: Coverage{Objects: 256}, Data: json.RawMessage(`{"gates":[]}`)},
			{Check: "linux.text", NotMeasured: "no profile"},
		},
	}
}

func TestObservationsRoundTrip(t *testing.T) {
	want := sample()
	b, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeObservations(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("round trip (-want +got):\n%s", diff)
	}
	again, err := got.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(b), string(again)); diff != "" {
		t.Errorf("encoding is not canonical:\n%s", diff)
	}
}

func TestDecodeObservationsRefuses(t *testing.T) {
	tests := map[string]struct {
		in   string
		want error
	}{
		"empty":           {``, ErrInvalid},
		"truncated":       {`{"version":1`, ErrInvalid},
		"version":         {`{"version":2}`, ErrVersion},
		"unknown field":   {`{"version":1,"verdict":"pass"}`, ErrInvalid},
		"left over":       {`{"version":1}{}`, ErrInvalid},
		"unnamed check":   {`{"version":1,"items":[{"data":{}}]}`, ErrInvalid},
		"neither":         {`{"version":1,"items":[{"check":"a"}]}`, ErrInvalid},
		"both":            {`{"version":1,"items":[{"check":"a","data":1,"not_measured":"x"}]}`, ErrInvalid},
		"twice":           {`{"version":1,"items":[{"check":"a","data":1},{"check":"a","data":1}]}`, ErrInvalid},
		"negative pause":  {`{"version":1,"pause_ns":-1}`, ErrInvalid},
		"bytes too large": {string(make([]byte, MaxEncoded+1)), ErrTooLarge},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			o, err := DecodeObservations([]byte(tt.in))
			if !errors.Is(err, tt.want) || o != nil {
				t.Errorf("got %v, %v; want error %v", o, err, tt.want)
			}
		})
	}
}

func TestBindSeparatesNonceFromReport(t *testing.T) {
	a := Bind([]byte("ab"), []byte("c"))
	for name, b := range map[string][32]byte{
		"a byte moved to the report": Bind([]byte("a"), []byte("bc")),
		"another nonce":              Bind([]byte("ax"), []byte("c")),
		"another report":             Bind([]byte("ab"), []byte("d")),
	} {
		if a == b {
			t.Errorf("%s: same binding", name)
		}
	}
	if a != Bind([]byte("ab"), []byte("c")) {
		t.Error("binding is not a function of its input")
	}
}

func TestDecide(t *testing.T) {
	tests := map[string]struct {
		checks []Outcome
		want   Outcome
	}{
		"no checks":                     {nil, Incomplete},
		"all pass":                      {[]Outcome{Pass, Pass}, Pass},
		"one not measured":              {[]Outcome{Pass, NotMeasured}, Incomplete},
		"a failure beats not measured":  {[]Outcome{NotMeasured, Fail, Pass}, Fail},
		"an unknown outcome is no pass": {[]Outcome{Pass, "splendid"}, Incomplete},
		"an empty outcome is no pass":   {[]Outcome{""}, Incomplete},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var r Report
			for _, o := range tt.checks {
				r.Checks = append(r.Checks, Check{Outcome: o})
			}
			if got := r.Decide(); got != tt.want || r.Outcome != tt.want {
				t.Errorf("got %v (report %v), want %v", got, r.Outcome, tt.want)
			}
		})
	}
}

func FuzzDecodeObservations(f *testing.F) {
	b, err := sample().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"version":1,"items":[]}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		o, err := DecodeObservations(in)
		if (o == nil) == (err == nil) {
			t.Fatalf("value %v and error %v", o, err)
		}
		if o == nil {
			return
		}
		b, err := o.Encode()
		if err != nil {
			t.Fatalf("decoded but does not encode: %v", err)
		}
		if _, err := DecodeObservations(b); err != nil {
			t.Fatalf("encoded but does not decode: %v", err)
		}
	})
}
