package baseline

import (
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// placed is a source whose volume lies somewhere.
type placed struct {
	*files
	runs []filewatch.Run
}

func (p placed) Machine() filewatch.Machine {
	m := p.files.Machine()
	if p.runs != nil {
		m.Places = []filewatch.Place{{Volume: p.volume, Runs: p.runs}}
	}
	return m
}

// A volume that lies elsewhere is not measured, one that was made longer is.
func TestComparePlaces(t *testing.T) {
	k := key(t)
	then := []filewatch.Run{{Offset: 1 << 20, Length: 4 << 20}, {Offset: 64 << 20, Length: 4 << 20}}
	for name, c := range map[string]struct {
		now  []filewatch.Run
		want string
	}{
		"the same":                   {then, ""},
		"longer":                     {[]filewatch.Run{then[0], {Offset: 64 << 20, Length: 9 << 20}, {Offset: 99 << 20, Length: 1 << 20}}, ""},
		"not known":                  {nil, ""},
		"elsewhere":                  {[]filewatch.Run{{Offset: 8 << 20, Length: 4 << 20}, then[1]}, "elsewhere"},
		"its second part elsewhere":  {[]filewatch.Run{then[0], {Offset: 65 << 20, Length: 4 << 20}}, "elsewhere"},
		"something between its runs": {[]filewatch.Run{{Offset: 1 << 20, Length: 5 << 20}, then[1]}, "elsewhere"},
		"shorter":                    {then[:1], "elsewhere"},
		"shorter at its end":         {[]filewatch.Run{then[0], {Offset: 64 << 20, Length: 3 << 20}}, "elsewhere"},
		"the other way round":        {[]filewatch.Run{then[1], then[0]}, "elsewhere"},
	} {
		t.Run(name, func(t *testing.T) {
			old := open(t, write(t, snapshot(t, placed{tree(), then}, nil), k), k)
			now := snapshot(t, placed{tree(), c.now}, nil)
			direct, err := Compare(old, now)
			if err != nil {
				t.Fatal(err)
			}
			between, err := Diff(old, open(t, write(t, now, k), k))
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range []*Report{direct, between} {
				switch {
				case c.want == "" && (len(r.Changes) > 0 || r.Outcome() != "pass"):
					t.Errorf("%s: %+v", r.Outcome(), r.Changes[0])
				case c.want != "" && (len(r.Changes) != 1 || r.Outcome() != "incomplete" || !strings.Contains(r.Changes[0].Explanation, c.want)):
					t.Errorf("%s: %d changes", r.Outcome(), len(r.Changes))
				}
			}
		})
	}
}
