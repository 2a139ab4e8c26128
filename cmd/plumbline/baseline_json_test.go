package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// The keys that the contract (docs/baseline.md, "The lines of show") has, and how
// their values look.
var recordKeys = map[string]*regexp.Regexp{
	"path": regexp.MustCompile(`^"/`), "names": regexp.MustCompile(`^\["/`), "type": regexp.MustCompile(`^"(file|dir|symlink|char|block|fifo|socket)"$`),
	"volume": regexp.MustCompile(`^"[-0-9a-z]+"$`), "inode": regexp.MustCompile(`^[1-9][0-9]*$`), "generation": regexp.MustCompile(`^[0-9]+$`),
	"nlink": regexp.MustCompile(`^[1-9][0-9]*$`), "mode": regexp.MustCompile(`^"[0-7]{4}"$`), "uid": regexp.MustCompile(`^[0-9]+$`), "gid": regexp.MustCompile(`^[0-9]+$`),
	"size": regexp.MustCompile(`^[0-9]+$`), "mtime": rfc3339ns, "ctime": rfc3339ns, "link": regexp.MustCompile(`^".+"$`), "rdev": regexp.MustCompile(`^"[0-9]+:[0-9]+"$`),
	"flags": regexp.MustCompile(`^"[a-zA-Z]+"$`), "flag_bits": regexp.MustCompile(`^[1-9][0-9]*$`), "xattrs": regexp.MustCompile(`^\{"`),
	"blake3": regexp.MustCompile(`^"[0-9a-f]{64}"$`), "sha256": regexp.MustCompile(`^"[0-9a-f]{64}"$`),
}

var rfc3339ns = regexp.MustCompile(`^"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z"$`)

// record is a line of "show" with exactly the keys it must have.
type record map[string]json.RawMessage

func (r record) text(key string) string { return strings.Trim(string(r[key]), `"`) }

func TestShowKeepsTheContract(t *testing.T) {
	s := newKeyStory(t)
	a := &aideTree{t: t, root: s.at("tree")}
	stamp := time.Date(2026, 2, 3, 4, 5, 6, 700, time.UTC)
	a.file("etc/motd", "hello\n")
	a.file("bin/tool", "x")
	a.must(syscall.Chmod(s.at("tree/bin/tool"), 0o4755))
	a.must(os.Link(s.at("tree/bin/tool"), s.at("tree/bin/other")))
	a.must(os.Symlink("motd\xfe\\", s.at("tree/etc/link")))
	a.must(syscall.Mkfifo(s.at("tree/fifo"), 0o600))
	a.must(syscall.Mknod(s.at("tree/block"), syscall.S_IFBLK|0o660, int(unix.Mkdev(8, 1))))
	a.must(os.Chmod(s.at("tree/block"), 0o660)) // whatever the umask is
	a.must(syscall.Mknod(s.at("tree/char"), syscall.S_IFCHR|0o600, int(unix.Mkdev(1, 300))))
	a.must(syscall.Mknod(s.at("tree/socket"), syscall.S_IFSOCK|0o755, 0))
	for _, name := range []string{"back\\slash", "not\xffutf8", "new\nline", "ünïcode", "<&>"} {
		a.file("names/"+name, name)
	}
	a.xattr("etc/motd", "user.x", []byte("a\x00b"))
	a.xattr("etc/motd", "system.posix_acl_access", acl(6, 4))
	a.must(os.Chown(s.at("tree/etc/motd"), 1000, 4000000000))
	a.must(os.Chtimes(s.at("tree/etc/motd"), stamp, stamp))
	s.command("truncate", "-s", "16M", s.at("vm.img"))
	s.command("mke2fs", "-q", "-F", "-t", "ext4", "-d", s.at("tree"), s.at("vm.img"))
	if err := os.WriteFile(s.at("rules"), []byte("[[rule]]\npath='**'\nlevel='verify'\ncheck=['all','sha256']\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, source := range [][]string{{"--root", "tree"}, {"--disk", "vm.img"}} {
		file := "b" + source[0]
		s.run(0, append([]string{"create", "-f", file, "--rules", "rules"}, source...)...)
		records := map[string]record{}
		var order []string
		for line := range strings.Lines(s.run(0, "show", file, "-o", "ndjson")) {
			var r record
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			var path string
			a.must(json.Unmarshal(r["path"], &path))
			records[path], order = r, append(order, path)
			for key, value := range r {
				if form := recordKeys[key]; form == nil || !form.Match(value) {
					t.Errorf("%s: %s is %s", path, key, value)
				}
			}
			applies(t, path, r)
		}
		if !slices.IsSortedFunc(order, func(a, b string) int { return strings.Compare(raw(a), raw(b)) }) {
			t.Errorf("not sorted: %q", order)
		}
		modified := "2026-02-03T04:05:06.000000700Z"
		if source[0] == "--disk" {
			modified = "2026-02-03T04:05:06.000000000Z" // mke2fs copies whole seconds
		}
		for path, want := range map[string]map[string]string{
			"/etc/motd": {"mode": "0644", "uid": "1000", "gid": "4000000000", "size": "6", "mtime": modified,
				"blake3": fmt.Sprintf("%x", blake3Of("hello\n")), "sha256": "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"},
			"/bin/other": {"mode": "4755", "nlink": "2", "names": `["/bin/other","/bin/tool"]`},
			"/block":     {"type": "block", "rdev": "8:1", "mode": "0660"}, "/char": {"type": "char", "rdev": "1:300"},
			"/fifo": {"type": "fifo"}, "/socket": {"type": "socket"}, "/etc/link": {"type": "symlink", "link": `motd\\xfe\\x5c`, "mode": "0777"},
			`/names/back\x5cslash`: {"size": "10"}, `/names/not\xffutf8`: {}, "/names/new\nline": {}, "/names/ünïcode": {}, "/names/<&>": {},
		} {
			r := records[path]
			if r == nil {
				t.Errorf("%s: no %q in %q", source, path, order)
			}
			for key, value := range want {
				if got := r.text(key); got != value {
					t.Errorf("%s: %s of %s is %s, want %s", source, key, path, got, value)
				}
			}
		}
		var xattrs map[string]string
		a.must(json.Unmarshal(records["/etc/motd"]["xattrs"], &xattrs))
		want := map[string]string{"user.x": "YQBi", "system.posix_acl_access": base64.StdEncoding.EncodeToString(acl(6, 4))}
		if diff := cmp.Diff(want, xattrs); diff != "" {
			t.Errorf("%s: %s", source, diff)
		}
	}
}

// applies wants the keys that an object of a type has, and no others.
func applies(t *testing.T, path string, r record) {
	t.Helper()
	kind := r.text("type")
	for key, there := range map[string]bool{"link": kind == "symlink", "rdev": kind == "char" || kind == "block", "blake3": kind == "file", "sha256": kind == "file"} {
		if (r[key] != nil) != there {
			t.Errorf("%s, a %s: %s is %s", path, kind, key, r[key])
		}
	}
	for _, key := range []string{"path", "type", "volume", "inode", "generation", "nlink", "mode", "uid", "gid", "size", "mtime", "ctime"} {
		if r[key] == nil {
			t.Errorf("%s: no %s", path, key)
		}
	}
}

// raw undoes the escapes of a path.
func raw(escaped string) string {
	return regexp.MustCompile(`\\x[0-9a-f]{2}`).ReplaceAllStringFunc(escaped, func(hex string) string {
		var b byte
		fmt.Sscanf(hex, `\x%02x`, &b)
		return string([]byte{b})
	})
}

func blake3Of(text string) []byte {
	cmd := exec.Command("b3sum", "--raw")
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.Output()
	if err != nil {
		return nil
	}
	return out
}

// A check has one object per change, with what the contract says.
func TestCheckKeepsTheContract(t *testing.T) {
	s := newKeyStory(t)
	a := &aideTree{t: t, root: s.at("tree")}
	for _, name := range []string{"changed", "removed", "same", "back\\slash"} {
		a.file(name, "content\n")
	}
	s.run(0, "create", "-f", "b", "--root", "tree")
	a.must(os.Chown(s.at("tree/changed"), 7, 8))
	a.must(os.Chmod(s.at("tree/changed"), 0o755|fs.ModeSetuid))
	a.must(os.Remove(s.at("tree/removed")))
	a.file("added", "x")
	a.file("back\\slash", "other\n")
	type change struct {
		Path, Change, Level, Explanation string
		Attributes                       map[string]struct{ Old, New json.RawMessage }
	}
	got := map[string]change{}
	for line := range strings.Lines(s.run(7, "check", "-f", "b", "--root", "tree", "-o", "ndjson")) {
		var c change
		if err := json.Unmarshal([]byte(line), &c); err != nil || c.Path == "" || c.Explanation == "" || c.Level != "verify" || c.Attributes == nil {
			t.Fatalf("%s: %v", line, err)
		}
		got[c.Path] = c
	}
	for path, want := range map[string]string{"/changed": "changed", "/removed": "removed", "/added": "added", `/back\x5cslash`: "changed"} {
		if got[path].Change != want {
			t.Errorf("%s: %q, want %q", path, got[path].Change, want)
		}
	}
	for name, want := range map[string][2]string{"mode": {`"0644"`, `"4755"`}, "uid": {"0", "7"}, "gid": {"0", "8"}} {
		if d := got["/changed"].Attributes[name]; os.Geteuid() == 0 && (string(d.Old) != want[0] || string(d.New) != want[1]) {
			t.Errorf("%s: %s to %s, want %s", name, d.Old, d.New, want)
		}
	}
	for _, key := range []string{"mtime", "ctime"} {
		if d := got[`/back\x5cslash`].Attributes[key]; !rfc3339ns.Match(d.Old) || !rfc3339ns.Match(d.New) {
			t.Errorf("%s: %s to %s", key, d.Old, d.New)
		}
	}
	var report struct {
		Outcome                 string
		Added, Removed, Changed int
		Changes                 []change
	}
	out := s.run(7, "check", "-f", "b", "--root", "tree", "-o", "json")
	if err := json.Unmarshal([]byte(out), &report); err != nil || report.Outcome != "fail" || report.Added != 1 || report.Removed != 1 || len(report.Changes) != len(got) {
		t.Errorf("%v: %s", err, out)
	}
}
