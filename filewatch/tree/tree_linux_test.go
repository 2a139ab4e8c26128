package tree

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/plumbline-sec/plumbline/filewatch"
)

type seen struct {
	obj     filewatch.Object
	names   string
	content string
}

func scanAll(t *testing.T, dir string) map[string]seen {
	t.Helper()
	tree, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	var mu sync.Mutex
	got := map[string]seen{}
	gaps, err := tree.Scan(context.Background(), func(*filewatch.Object, []string) bool { return true },
		func(o *filewatch.Object, names []string, content io.Reader, damage error) error {
			s := seen{obj: *o, names: strings.Join(names, " ")}
			if content != nil {
				text, err := io.ReadAll(content)
				if err != nil {
					return err
				}
				s.content = string(text)
			}
			if damage != nil {
				t.Errorf("%q: %v", names, damage)
			}
			mu.Lock()
			defer mu.Unlock()
			got[names[0]] = s
			return nil
		})
	if err != nil || len(gaps) != 0 {
		t.Fatalf("%v, gaps %v", err, gaps)
	}
	return got
}

// What the tree says agrees with find(1).
func TestAgreesWithFind(t *testing.T) {
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(dir+"/d/e", 0o750))
	must(os.WriteFile(dir+"/d/f", []byte("hello"), 0o640))
	must(os.Link(dir+"/d/f", dir+"/a"))
	must(os.Symlink("../nowhere", dir+"/d/l"))
	must(os.WriteFile(dir+"/d/\xff\n", nil, 0o600))
	must(unix.Mkfifo(dir+"/p", 0o600))
	must(os.Chmod(dir+"/d/f", 0o640|os.ModeSetuid))
	must(os.Chtimes(dir+"/d/f", time.Unix(1, 2), time.Unix(1234567890, 123456789)))
	got := scanAll(t, dir)
	if names := got["/a"].names; names != "/a /d/f" {
		t.Errorf("names of the linked file: %q", names)
	}
	if s := got["/a"]; s.content != "hello" || s.obj.Mode != 0o4640 || s.obj.Nlink != 2 {
		t.Errorf("linked file: %+v", s)
	}
	var ours []string
	for _, s := range got {
		for name := range strings.SplitSeq(s.names, " ") {
			ours = append(ours, strings.Join([]string{name, string(s.obj.Type), s.obj.Mtime.Format("20060102150405.000000000"), s.obj.Link}, "|"))
		}
	}
	find := exec.Command("find", ".", "-printf", `/%P|%y|%TY%Tm%Td%TH%TM%TS|%l\0`)
	find.Dir = dir
	find.Env = append(os.Environ(), "TZ=UTC")
	out, err := find.Output()
	must(err)
	var theirs []string
	types := strings.NewReplacer("|d|", "|dir|", "|f|", "|file|", "|l|", "|symlink|", "|p|", "|fifo|")
	for line := range strings.SplitSeq(strings.TrimRight(string(out), "\x00"), "\x00") {
		fields := strings.Split(types.Replace(line), "|")
		fields[2] = fields[2][:24] // find prints ten digits
		theirs = append(theirs, strings.Join(fields, "|"))
	}
	sort.Strings(ours)
	sort.Strings(theirs)
	if diff := cmp.Diff(theirs, ours); diff != "" {
		t.Error(diff)
	}
}

// A file that becomes a link to elsewhere between the look and the reading is
// not followed.
func TestNeverLeavesTheTree(t *testing.T) {
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, dir+"/x"); err != nil {
		t.Fatal(err)
	}
	tree, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	for _, name := range []string{"/x", "/../" + filepath.Base(filepath.Dir(outside)) + "/secret"} {
		if f, err := tree.root.open(&filewatch.Object{}, name); err == nil {
			f.Close()
			t.Errorf("%s was opened", name)
		}
	}
}
