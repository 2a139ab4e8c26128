package baseline

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const shaRules = `
[[rule]]
path = "**"
level = "verify"
check = ["mode", "sha256"]
`

// Rules that ask for SHA-256 alone get SHA-256 alone, and it is enough to see
// changed content, renames and packages.
func TestSHA256Alone(t *testing.T) {
	asked := rules(t, shaRules)
	k := key(t)
	b := open(t, write(t, snapshot(t, tree(), &CaptureOptions{Rules: asked}), k), k)
	for _, r := range records(t, b) {
		if r.BLAKE3 != (Digest{}) || r.SHA256 == (Digest{}) {
			t.Errorf("%s has digests %s %s", r.Path(), r.BLAKE3, r.SHA256)
		}
	}
	now := tree()
	now.put(11, "MOTD", "/etc/motd")
	if diff := cmp.Diff([]string{"changed /etc/motd [sha256] [content-changed-times-kept]"}, brief(check(t, tree(), now, asked))); diff != "" {
		t.Error(diff)
	}
	if r := check(t, tree(), tree(), asked); r.Outcome() != "pass" {
		t.Errorf("benign twin: %v", brief(r))
	}
}

// Equal records of what could not be read, in both states, are not equal files.
func TestUnreadTwiceIsNotMeasured(t *testing.T) {
	fs := tree()
	fs.objects[13].damage = errors.New("bad block")
	if r := check(t, fs, fs, nil); r.Outcome() != "incomplete" {
		t.Errorf("outcome %s: %v", r.Outcome(), brief(r))
	}
}

// A state without the digests that the judge's rules ask for proves nothing: it
// may come from the machine that is judged.
func TestDigestLeftOutIsNotMeasured(t *testing.T) {
	k := key(t)
	all := open(t, write(t, snapshot(t, tree(), nil), k), k)
	laxer := tree()
	laxer.put(11, "MOTD", "/etc/motd")
	lax := open(t, write(t, snapshot(t, laxer, &CaptureOptions{Rules: rules(t, shaRules)}), k), k)
	for name, pair := range map[string][2]*Baseline{"newer": {all, lax}, "older": {lax, all}, "both": {lax, lax}} {
		r, err := DiffUnder(nil, pair[0], pair[1])
		if err != nil || r.Outcome() == "pass" {
			t.Errorf("%s: %s %v, %v", name, r.Outcome(), brief(r), err)
		}
	}
	if r, err := DiffUnder(nil, all, all); err != nil || r.Outcome() != "pass" {
		t.Errorf("benign twin: %v, %v", brief(r), err)
	}
}
