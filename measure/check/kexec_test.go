package check

import "testing"

// A page that the target names as kexec's accounts for itself and for nothing behind
// it: a run of pages that begins with a copy of its code is judged page by page.
func TestKexecPageAccountsForItself(t *testing.T) {
	const at = 0xff11000001000000
	d := &dynamicJudge{data: &dynamicData{Kexec: []kexecFact{{At: at}}}}
	for name, c := range map[string]dynamicCode{
		"more pages": {region: region{Start: at, Digests: make([]byte, 2*len(Digest{}))}},
		"a pack":     {region: region{Start: at, Digests: make([]byte, len(Digest{}))}, Pack: true},
		"elsewhere":  {region: region{Start: at + 0x1000, Digests: make([]byte, len(Digest{}))}},
	} {
		if d.kexec(&c) || d.kexecs != 0 {
			t.Errorf("%s: taken for the page of kexec", name)
		}
	}
}
