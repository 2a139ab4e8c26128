package baseline

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/filewatch"
)

func tree() *files {
	fs := newFiles()
	fs.put(11, "motd", "/etc/motd")
	fs.put(12, "su", "/bin/su").Mode = 0o4755
	fs.put(13, "env", "/usr/bin/env").Mode = 0o755
	fs.put(14, "line 1\n", "/var/log/syslog")
	fs.put(15, "", "/data/a", "/data/b")
	return fs
}

func rules(t *testing.T, text string) *filewatch.Rules {
	t.Helper()
	r, err := filewatch.ParseRules([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestCompare has each change by its name; "nothing" is the benign twin of all.
func TestCompare(t *testing.T) {
	later := epoch.Add(time.Hour)
	for name, c := range map[string]struct {
		change func(fs *files)
		want   []string
		mask   int
	}{
		"nothing": {func(fs *files) {}, nil, 0},
		"content": {func(fs *files) {
			f := fs.put(11, "MOTD", "/etc/motd")
			f.Mtime, f.Ctime = later, later
		}, []string{"changed /etc/motd [blake3 mtime ctime] []"}, 4},
		"content with times put back": {func(fs *files) { fs.put(13, "EVN", "/usr/bin/env").Mode = 0o755; fs.objects[13].Ctime = later },
			[]string{"changed /usr/bin/env [blake3 ctime] [content-changed-times-kept]"}, 4},
		"setuid": {func(fs *files) { fs.objects[13].Mode = 0o4755 }, []string{"changed /usr/bin/env [mode] [setuid-added]"}, 4},
		"new setuid": {func(fs *files) { fs.put(20, "x", "/usr/bin/x").Mode = 0o6755 },
			[]string{"added /usr/bin/x [] [setuid-added]"}, 1},
		"capability": {func(fs *files) {
			fs.objects[13].Xattrs = []filewatch.Xattr{{Name: "security.capability", Value: []byte{1}}}
		}, []string{"changed /usr/bin/env [xattrs] [capability-added]"}, 4},
		"removed": {func(fs *files) { delete(fs.objects, 11) }, []string{"removed /etc/motd [] []"}, 2},
		"renamed": {func(fs *files) { fs.objects[11].names = []string{"/etc/motd.old"} },
			[]string{"changed /etc/motd.old [path] []"}, 4},
		"renamed and replaced": {func(fs *files) {
			fs.objects[11].names = []string{"/etc/motd.old"}
			fs.put(30, "new", "/etc/motd")
		}, []string{"added /etc/motd [] []", "changed /etc/motd.old [path] []"}, 5},
		"replaced by an equal file": {func(fs *files) {
			delete(fs.objects, 11)
			fs.put(30, "motd", "/etc/motd")
		}, []string{"changed /etc/motd [inode] []"}, 4},
		"inode number used again": {func(fs *files) {
			delete(fs.objects, 11)
			fs.put(11, "other", "/etc/other").Generation = 8
		}, []string{"removed /etc/motd [] []", "added /etc/other [] []"}, 3},
		"became a link": {func(fs *files) {
			f := fs.put(11, "", "/etc/motd")
			f.Type, f.Link = filewatch.TypeSymlink, "/tmp/x"
		}, []string{"changed /etc/motd [type size blake3 link] []"}, 4},
		"second name in an odd place": {func(fs *files) {
			fs.objects[15].names = []string{"/data/a", "/data/b", "/data/c"}
			fs.objects[15].Nlink = 3
		}, []string{"changed /data/a [nlink names] []"}, 4},
		"odd names": {func(fs *files) {
			fs.put(40, "", "/tmp/...")
			fs.put(41, "", "/usr/bin/.x")
			fs.put(42, "", "/home/u/.profile")
		}, []string{"added /home/u/.profile [] []", "added /tmp/... [] [odd-name]", "added /usr/bin/.x [] [odd-name]"}, 1},
		"device and program out of place": {func(fs *files) {
			d := fs.put(40, "", "/home/sda")
			d.Type, d.Major = filewatch.TypeBlock, 8
			fs.put(41, "elf", "/var/log/x").Mode = 0o755
		}, []string{"added /home/sda [] [device-out-of-place]", "added /var/log/x [] [executable-out-of-place]"}, 1},
		"log truncated": {func(fs *files) { fs.put(14, "", "/var/log/syslog").Mtime = later },
			[]string{"changed /var/log/syslog [size blake3 mtime] [log-truncated]"}, 4},
	} {
		t.Run(name, func(t *testing.T) {
			now := tree()
			c.change(now)
			r := check(t, tree(), now, nil)
			if diff := cmp.Diff(c.want, brief(r)); diff != "" {
				t.Error(diff)
			}
			if r.Mask() != c.mask {
				t.Errorf("mask %d, want %d", r.Mask(), c.mask)
			}
			for _, change := range r.Changes {
				if change.Explanation == "" {
					t.Errorf("%s is not explained", change.Path)
				}
			}
		})
	}
}

func TestUnreadableIsIncompleteNeverPass(t *testing.T) {
	now := tree()
	now.objects[13].damage = errors.New("bad block")
	r := check(t, tree(), now, nil)
	if diff := cmp.Diff([]string{"not-measured /usr/bin/env [] []"}, brief(r)); diff != "" {
		t.Error(diff)
	}
	if r.Outcome() != "incomplete" || r.Mask() != 0 {
		t.Errorf("outcome %s, mask %d", r.Outcome(), r.Mask())
	}
	if r = check(t, now, tree(), nil); r.Outcome() != "incomplete" {
		t.Errorf("unreadable in the baseline: %s", r.Outcome())
	}
	gap := tree()
	gap.gaps = []filewatch.Gap{{Volume: "vol-1", What: "/etc", Reason: "bad block"}}
	if r = check(t, tree(), gap, nil); r.Outcome() != "incomplete" {
		t.Errorf("gap: %s", r.Outcome())
	}
	gap.objects[11].names = nil // what was in /etc is still there, without a name
	if r = check(t, tree(), gap, nil); r.Outcome() != "incomplete" || r.Mask() != 0 {
		t.Errorf("lost name: %v", brief(r))
	}
}

const logRules = `
[[rule]]
path = "/var/log/**"
level = "verify"
check = ["growing", "owner"]
[[rule]]
path = "/data/**"
level = "record"
[[rule]]
path = "**"
level = "protect"
check = ["content", "sha256"]
`

func TestGrowing(t *testing.T) {
	for name, c := range map[string]struct {
		change func(fs *files)
		want   []string
	}{
		"grown":     {func(fs *files) { fs.put(14, "line 1\nline 2\n", "/var/log/syslog").Mtime = epoch.Add(1) }, nil},
		"same":      {func(fs *files) {}, nil},
		"rewritten": {func(fs *files) { fs.put(14, "LINE 1\nline 2\n", "/var/log/syslog") }, []string{"changed /var/log/syslog [growing] [content-changed-times-kept]"}},
		"truncated": {func(fs *files) { fs.put(14, "", "/var/log/syslog") }, []string{"changed /var/log/syslog [growing] [content-changed-times-kept log-truncated]"}},
		"rotated": {func(fs *files) {
			fs.put(14, "line 1\nlast\n", "/var/log/syslog.1")
			fs.put(50, "new\n", "/var/log/syslog")
		}, nil},
		"rotated, with a setuid program as its successor": {func(fs *files) {
			fs.put(14, "line 1\n", "/var/log/syslog.1")
			fs.put(50, "elf", "/var/log/syslog").Mode = 0o4755
		}, []string{"added /var/log/syslog [] [setuid-added executable-out-of-place]"}},
		"rotated, and given to somebody": {func(fs *files) {
			fs.put(14, "line 1\n", "/var/log/syslog.1").UID = 1000
			fs.put(50, "new\n", "/var/log/syslog")
		}, []string{"added /var/log/syslog [] []", "changed /var/log/syslog.1 [uid path] []"}},
		"rotated after a change": {func(fs *files) {
			fs.put(14, "LINE 1\n", "/var/log/syslog.1")
			fs.put(50, "new\n", "/var/log/syslog")
		}, []string{"added /var/log/syslog [] []", "changed /var/log/syslog.1 [path growing] [content-changed-times-kept]"}},
	} {
		t.Run(name, func(t *testing.T) {
			now := tree()
			c.change(now)
			if diff := cmp.Diff(c.want, brief(check(t, tree(), now, rules(t, logRules)))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestLevelsAndSHA256(t *testing.T) {
	now := tree()
	now.put(15, "new", "/data/a", "/data/b")
	r := check(t, tree(), now, rules(t, logRules))
	if len(r.Changes) != 1 || r.Mask() != 0 || r.Outcome() != "pass" {
		t.Errorf("recorded change counts: %v", brief(r))
	}
	now = tree()
	now.put(11, "MOTD", "/etc/motd")
	r = check(t, tree(), now, rules(t, logRules))
	if diff := cmp.Diff([]string{"changed /etc/motd [blake3 sha256] [content-changed-times-kept]"}, brief(r)); diff != "" {
		t.Error(diff)
	}
	if r.Changes[0].Level != filewatch.Protect {
		t.Errorf("level %s", r.Changes[0].Level)
	}
}

// A file that moves under a laxer rule is still held to what it was.
func TestStricterRuleOfBothStatesHolds(t *testing.T) {
	now := tree()
	now.put(11, "MOTD", "/data/motd")
	r := check(t, tree(), now, rules(t, logRules))
	if len(r.Changes) != 1 || r.Changes[0].Level != filewatch.Protect || !r.Changes[0].Attributes.Has("blake3") {
		t.Errorf("got %v", brief(r))
	}
}

func TestJudgePartial(t *testing.T) {
	fs, k := tree(), key(t)
	b := open(t, write(t, snapshot(t, fs, nil), k), k)
	x, err := b.Index()
	if err != nil {
		t.Fatal(err)
	}
	judge := func(path string, got *Observed) filewatch.Verdict {
		t.Helper()
		c, err := x.Judge(nil, path, got)
		if err != nil {
			t.Fatal(err)
		}
		return VerdictOf(c)
	}
	env := fs.objects[13]
	seen := func() *Observed {
		return &Observed{Record: Record{Object: env.Object, Names: env.names}, Known: filewatch.AttrMode | filewatch.AttrUID | filewatch.AttrGID}
	}
	if v := judge("/usr/bin/env", seen()); v.Outcome != filewatch.NotMeasured || v.Reason == "" {
		t.Errorf("content not known: %+v", v)
	}
	chmod := seen()
	chmod.Mode = 0o4755
	if v := judge("/usr/bin/env", chmod); v.Outcome != filewatch.Fail {
		t.Errorf("setuid: %+v", v)
	}
	if v := judge("/usr/bin/env", nil); v.Outcome != filewatch.Fail {
		t.Errorf("gone: %+v", v)
	}
	if v := judge("/usr/bin/new", &Observed{Record: Record{Object: filewatch.Object{Type: filewatch.TypeFile, Volume: "vol-1", Inode: 99}}}); v.Outcome != filewatch.Fail {
		t.Errorf("new: %+v", v)
	}
	whole := records(t, b)[0]
	if v := judge(whole.Path(), &Observed{Record: *whole}); v.Outcome != filewatch.Pass {
		t.Errorf("unchanged: %+v", v)
	}
	moved := *whole
	moved.Names = []string{"/elsewhere"}
	if v := judge("/elsewhere", &Observed{Record: moved}); v.Outcome != filewatch.Fail {
		t.Errorf("renamed: %+v", v)
	}
}
