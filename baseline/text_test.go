package baseline

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch"
)

const textRules = `
[[rule]]
path = "/etc/shadow"
level = "protect"
nodiff = true

[[rule]]
path = "/etc/plain"
level = "verify"

[[rule]]
path = "/etc/sum"
level = "verify"
check = ["sha256"]
diff = true

[[rule]]
path = "**"
level = "verify"
diff = true
`

func etc(contents map[string]string) *files {
	fs := newFiles()
	inode := uint64(100)
	for _, name := range []string{"/etc/motd", "/etc/shadow", "/etc/plain", "/etc/key", "/etc/hash", "/etc/binary", "/etc/latin1", "/etc/long", "/etc/sum", "/etc/new"} {
		inode++
		if content, ok := contents[name]; ok {
			fs.put(inode, content, name)
		}
	}
	return fs
}

func TestTextOfChanges(t *testing.T) {
	private := "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n"
	before := map[string]string{"/etc/motd": "one\ntwo\nthree\n", "/etc/shadow": "root:secret\n", "/etc/plain": "x", "/etc/key": private,
		"/etc/hash": "root:$6$salt$hash:1:\n", "/etc/binary": "a\x00b", "/etc/latin1": "\xe9\n", "/etc/long": strings.Repeat("x", MaxText+1), "/etc/sum": "a\n"}
	after := map[string]string{"/etc/new": "hello\n"}
	for name, content := range before {
		after[name] = content + "more"
	}
	after["/etc/long"] = "short now\n"
	got := map[string]string{}
	for _, c := range check(t, etc(before), etc(after), rules(t, textRules)).Changes {
		got[c.Path] = c.Diff + c.NoDiff
		if c.Diff != "" && c.NoDiff != "" || c.Diff == "" && c.NoDiff == "" {
			t.Errorf("%s: diff %q and reason %q", c.Path, c.Diff, c.NoDiff)
		}
	}
	for name, want := range map[string]string{
		"/etc/motd":   "--- a/etc/motd\n+++ b/etc/motd\n@@ -1,3 +1,4 @@\n one\n two\n three\n+more\n\\ No newline at end of file\n",
		"/etc/new":    "--- a/etc/new\n+++ b/etc/new\n@@ -0,0 +1 @@\n+hello\n",
		"/etc/sum":    "--- a/etc/sum\n+++ b/etc/sum\n@@ -1 +1,2 @@\n a\n+more\n\\ No newline at end of file\n",
		"/etc/shadow": "nodiff: its content may be secret",
		"/etc/plain":  "the old content was not kept: no rule asks for it (diff = true)",
		"/etc/key":    "the old content was not kept: it looks like a private key or a password's hash",
		"/etc/hash":   "the old content was not kept: it looks like a private key or a password's hash",
		"/etc/binary": "the old content was not kept: it is not text",
		"/etc/latin1": "the old content was not kept: it is not text",
		"/etc/long":   "the old content was not kept: it is longer than 64 KiB",
	} {
		if got[name] != want {
			t.Errorf("%s: got %q, want %q", name, got[name], want)
		}
	}
}

// A secret is not in the baseline at all, under none of its names.
func TestSecretsAreNotKept(t *testing.T) {
	fs := newFiles()
	fs.put(1, "root:secret\n", "/etc/a-name-without-a-rule", "/etc/shadow")
	fs.put(2, "kept text\n", "/etc/motd")
	k := key(t)
	b := open(t, write(t, snapshot(t, fs, &CaptureOptions{Rules: rules(t, textRules)}), k), k)
	var plain []byte
	if err := b.blocks().each(func(encoded []byte) error { plain = append(plain, encoded...); return nil }); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(plain, []byte("secret")) || !bytes.Contains(plain, []byte("kept text")) {
		t.Errorf("%q", plain)
	}
	for _, r := range records(t, b) {
		if text, err := r.MarshalJSON(); err != nil || bytes.Contains(text, []byte("kept text")) {
			t.Errorf("show gives %s, %v", text, err)
		}
	}
}

// Kept text that is not what its record's digest says is not shown.
func TestForgedTextIsNotShown(t *testing.T) {
	old := &Record{Names: []string{"/etc/motd"}, Text: Text{TextKept, []byte("harmless\n")}, BLAKE3: Digest{1}}
	old.Type = "file"
	new := *old
	new.BLAKE3, new.Text = Digest{2}, Text{TextKept, []byte("harmful\n")}
	c := &Change{Path: "/etc/motd", Kind: Changed, Old: old, New: &new, Attributes: Deltas{{Name: "blake3"}}}
	if textDiff(c, false); c.Diff != "" || !strings.Contains(c.NoDiff, "is not the one its digest is of") {
		t.Errorf("%q, %q", c.Diff, c.NoDiff)
	}
}

func TestTextHasABound(t *testing.T) {
	fs := newFiles()
	for i := range 2 * MaxTextTotal / MaxText {
		fs.put(uint64(i+1), strings.Repeat("x", MaxText), fmt.Sprintf("/f%04d", i))
	}
	k := key(t)
	o := &CaptureOptions{Rules: rules(t, textRules)}
	first, second := write(t, snapshot(t, fs, o), k), write(t, snapshot(t, fs, o), k)
	if !bytes.Equal(first, second) {
		t.Error("the order of reading shows in the baseline")
	}
	for i, r := range records(t, open(t, first, k)) {
		want := TextKept
		if i >= MaxTextTotal/MaxText {
			want = TextNoRoom
		}
		if r.Text.State != want {
			t.Fatalf("%s: %s", r.Path(), r.Text.State)
		}
	}
	// Nor does accepting or taking over a baseline exceed it.
	var out bytes.Buffer
	b := open(t, first, k)
	extra := &Record{Names: []string{"/a"}, Text: Text{TextKept, []byte("more")}}
	extra.Type = filewatch.TypeFile
	if _, err := Accept(b, []*Change{{Path: "/a", Kind: Added, New: extra}}, &Decision{Author: "a", Reason: "r"}, &out, k); err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, r := range records(t, open(t, out.Bytes(), k)) {
		total += len(r.Text.Content)
	}
	if total > MaxTextTotal {
		t.Errorf("%d bytes are kept", total)
	}
}

// Diffs of random texts are what git, which no one here wrote, can apply.
func TestGitAppliesDiffs(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	dir := t.TempDir()
	for i := range 60 {
		old := randomText(random)
		new := mutate(random, old)
		diff, reason := unifiedDiff("/f", []byte(old), []byte(new))
		if (diff == "") != (old == new) {
			t.Fatalf("%q to %q: %s", old, new, reason)
		}
		if diff == "" || old == "" || new == "" {
			continue // for git that is a file made or removed
		}
		if err := os.WriteFile(dir+"/f", []byte(old), 0o644); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("git", "apply", "--unidiff-zero", "--whitespace=nowarn", "-")
		cmd.Dir, cmd.Stdin, cmd.Env = dir, strings.NewReader(diff), append(os.Environ(), "GIT_CEILING_DIRECTORIES="+dir, "GIT_DIR=/nonexistent")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("round %d: %v\n%s\n%s", i, err, out, diff)
		}
		if got, err := os.ReadFile(dir + "/f"); err != nil || string(got) != new {
			t.Fatalf("%q and\n%s give %q, want %q", old, diff, got, new)
		}
	}
}

func randomText(r *rand.Rand) string {
	var b strings.Builder
	for range r.IntN(40) {
		fmt.Fprintf(&b, "line %d\n", r.IntN(6))
	}
	if r.IntN(2) == 0 {
		b.WriteString("no newline")
	}
	return b.String()
}

func mutate(r *rand.Rand, text string) string {
	lines := strings.SplitAfter(text, "\n")
	for range r.IntN(6) {
		i := r.IntN(len(lines))
		switch r.IntN(3) {
		case 0:
			lines[i] = fmt.Sprintf("new %d\n", r.IntN(9))
		case 1:
			lines[i] = ""
		default:
			lines[i] += "added\n"
		}
	}
	return strings.Join(lines, "")
}

func TestManyDifferencesAreBounded(t *testing.T) {
	old, new := strings.Repeat("a\n", MaxText/2), strings.Repeat("b\n", MaxText/2)
	if diff, reason := unifiedDiff("/f", []byte(old), []byte(new)); diff != "" || reason == "" {
		t.Errorf("%d bytes, %q", len(diff), reason)
	}
}
