package baseline

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

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

// two are a machine of two volumes.
type two struct{ *files }

func (s two) Machine() filewatch.Machine {
	m := s.files.Machine()
	m.Volumes = append(m.Volumes, "vol-2")
	m.Places = []filewatch.Place{{Volume: "vol-1", Runs: []filewatch.Run{{Offset: 1, Length: 1}}}, {Volume: "vol-2", Runs: []filewatch.Run{{Offset: 1 << 30, Length: 1 << 20}}}}
	return m
}

// A volume that came does not go unseen, whatever the rules take of it.
func TestVolumesThatCame(t *testing.T) {
	const most = "[[rule]]\nvolume = \"vol-2\"\nlevel = \"ignore\"\n[[rule]]\npath = \"**\"\nlevel = \"verify\"\n"
	k := key(t)
	for name, c := range map[string]struct {
		before, now Source
		rules       string
		want        []string
	}{
		"that the rules ignore": {tree(), two{tree()}, most, []string{"not-measured volume vol-2 [] []"}},
		"whose files are taken": {tree(), two{elsewhere("vol-2")}, "[[rule]]\npath = \"**\"\nlevel = \"verify\"\n", []string{"added /srv/x [] []"}},
		"that was there before": {two{tree()}, two{tree()}, most, nil},
		"that went":             {two{tree()}, tree(), most, nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := rules(t, c.rules)
			old := open(t, write(t, snapshot(t, c.before, &CaptureOptions{Rules: r}), k), k)
			now := snapshot(t, c.now, &CaptureOptions{Rules: r})
			direct, err := Compare(old, now)
			if err != nil {
				t.Fatal(err)
			}
			between, err := Diff(old, open(t, write(t, now, k), k))
			if err != nil {
				t.Fatal(err)
			}
			last, err := now.Remember(t.TempDir(), old, "", &Keep{Taken: epoch})
			if err != nil {
				t.Fatal(err)
			}
			stored, err := last.Report(&old.Header, r)
			if err != nil {
				t.Fatal(err)
			}
			for _, got := range []*Report{direct, between, stored} {
				if d := cmp.Diff(c.want, brief(got)); d != "" {
					t.Error(d)
				}
			}
		})
	}
}

// elsewhere is tree with one file more, on another volume.
func elsewhere(volume string) *files {
	fs := tree()
	fs.put(99, "x", "/srv/x").Volume = volume
	return fs
}
