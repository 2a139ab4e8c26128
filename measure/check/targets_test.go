package check

import (
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"
)

// What is written is what is read, whatever the order of values and whatever a process
// calls itself.
func TestTargetsAreReadAsWritten(t *testing.T) {
	all := targetFacts{
		{Path: "super_blocks[0].s_op->statfs", At: 0xff00_0000_0000_1000, Value: 0xffff_ffff_8100_0000, Start: true, Count: 3},
		{Path: "a", At: math.MaxUint64, Value: math.MaxUint64, Count: math.MaxInt64, Low: 1, High: math.MaxUint64},
		{Path: "", Value: 0, Symbol: "m:f+0x5", Low: 0xff00_0000_0000_0008},
		{Path: strings.Repeat("é", maxTargetText/2), Count: 1},
	}
	raw, err := json.Marshal(objectsData{Targets: all})
	if err != nil {
		t.Fatal(err)
	}
	var got objectsData
	if err := decode(raw, &got); err != nil || !reflect.DeepEqual(got.Targets, all) {
		t.Errorf("read %v, %v", got.Targets, err)
	}
	for written, read := range map[string]string{
		"task 1 (\xff\xfe).files":                  "task 1 (\uFFFD).files",
		strings.Repeat("x", maxTargetText-1) + "é": strings.Repeat("x", maxTargetText-1),
	} {
		text, err := targetFacts{{Path: written}}.MarshalText()
		var got targetFacts
		if err != nil {
			t.Fatal(err)
		}
		if err := got.UnmarshalText(text); err != nil || len(got) != 1 || got[0].Path != read {
			t.Errorf("%.30q is read as %v, %v", written, got, err)
		}
	}
}

// Records come from a producer that may lie.
func FuzzTargets(f *testing.F) {
	for _, l := range []targetFacts{nil, {{Path: "a.b", At: 1, Value: 2, Symbol: "c", Low: 3, High: 4, Start: true, Count: 5}}, {{Value: 9}, {Value: 1, Count: 1}}} {
		text, _ := l.MarshalText()
		f.Add(string(text))
	}
	f.Add("AAAAAAAAAAAAAAAAAAD/////DwA=")
	f.Fuzz(func(t *testing.T, text string) {
		var l, again targetFacts
		if err := l.UnmarshalText([]byte(text)); err != nil {
			if len(l) > 0 {
				t.Fatalf("%d targets and %v", len(l), err)
			}
			return
		}
		if len(l)*12 > len(text) {
			t.Fatalf("%d targets of %d bytes", len(l), len(text))
		}
		written, err := l.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		if err := again.UnmarshalText(written); err != nil || len(l) > 0 && !reflect.DeepEqual(l, again) {
			t.Fatalf("%v, written and read again %v, %v", l, again, err)
		}
	})
}
