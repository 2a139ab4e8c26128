package aide

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/filewatch"
)

const config = `# comment
@@define TOP @ROOT@
@@define EMPTY
database_in=file:@OUT@/db
database_out=file:@OUT@/db
gzip_dbout=no
report_url=file:@OUT@/report
OwnerMode = p+u+g+ftype
Content = OwnerMode+s+sha256
Full = Content+m+c+i+n

@@if defined TOP
/@@{TOP}/etc Full
@@else
/@@{TOP}/usr Full
@@endif
!/@@{TOP}/etc/skip
!/@@{TOP}/.*\.bak$ f
/@@{TOP}/etc/deep f Content
=/@@{TOP}/only d OwnerMode
/@@{TOP}/log/.*\\.log$ f OwnerMode+growing
/@@{TOP}/sp\ ace f Full
@@ifndef MISSING
/@@{TOP}/bin 0 R
@@endif
`

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// The imported rules select what AIDE itself selects.
func TestSelectsWhatAIDESelects(t *testing.T) {
	root, out := t.TempDir(), t.TempDir()
	for _, name := range []string{"etc/a", "etc/skip/x", "etc/skipped", "etc/deep/f", "etc/deep/d/f", "etc/x.bak", "only/inside",
		"log/a.log", "log/a.txt", "log/sub/b.log", "sp ace/f", "bin/sh", "bin/x.bak/f", "usr/x", "etcetera"} {
		write(t, filepath.Join(root, name), name)
	}
	conf := filepath.Join(out, "aide.conf")
	write(t, conf, strings.NewReplacer("@ROOT@", strings.TrimPrefix(root, "/"), "@OUT@", out).Replace(config))
	if text, err := exec.Command("aide", "--init", "--config="+conf).CombinedOutput(); err != nil {
		t.Fatalf("aide: %v\n%s", err, text)
	}
	database, err := os.ReadFile(filepath.Join(out, "db"))
	if err != nil {
		t.Fatal(err)
	}
	var theirs []string
	for line := range strings.Lines(string(database)) {
		if name, _, _ := strings.Cut(line, " "); strings.HasPrefix(name, root) {
			theirs = append(theirs, strings.TrimPrefix(strings.ReplaceAll(name, "%20", " "), root))
		}
	}
	slices.Sort(theirs)
	c, err := Import(conf, nil)
	if err != nil || len(c.Refused) > 0 {
		t.Fatalf("%v, refused %v", err, c.Refused)
	}
	rules, err := filewatch.ParseRules(c.TOML())
	if err != nil {
		t.Fatalf("%v\n%s", err, c.TOML())
	}
	var ours []string
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		o := &filewatch.Object{Type: filewatch.TypeFile}
		if d.IsDir() {
			o.Type = filewatch.TypeDir
		}
		if rules.Match(path, o).Level != filewatch.Ignore {
			ours = append(ours, strings.TrimPrefix(path, root))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(ours)
	if diff := cmp.Diff(theirs, ours); diff != "" {
		t.Errorf("AIDE selects -, we +:\n%s\n%s", diff, c.TOML())
	}
}

// Saved output takes a program's place, and then what is not defined is empty.
func TestSavedOutputs(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/conf.d/10_program", "#!/bin/sh\n")
	if err := os.Chmod(dir+"/conf.d/10_program", 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/outputs/10_program", "@@define A alpha\n/from/program p\n")
	write(t, dir+"/conf.d/20_plain", "/@@{A}@@{B}/@@{C} p\n!/gone$\n!/dir$ d\n")
	write(t, dir+"/aide.conf", "@@x_include "+dir+"/conf.d ^[a-z0-9_]+$ /prefix\n/after p\n")
	c, err := Import(dir+"/aide.conf", &Options{Outputs: dir + "/outputs", Defines: map[string]string{"C": "gamma"}})
	if err != nil || len(c.Refused) > 0 {
		t.Fatalf("%v, %v", err, c.Refused)
	}
	var got []string
	for _, r := range append(c.negative, c.positive...) {
		got = append(got, r.regex)
	}
	want := []string{"^(?:/prefix/gone(?:/|$))", "^(?:/prefix/dir$)", "^(?:/prefix/from/program)", "^(?:/prefix/alpha/gamma)", "^(?:/after)"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestGroups(t *testing.T) {
	c := &Config{groups: builtin()}
	for expression, want := range map[string]string{
		"p+i+n":       "inode mode nlink",
		"R":           "blake3 ctime flags gid inode link mode mtime nlink size type uid xattrs",
		"R-m-c - md5": "flags gid inode link mode nlink size type uid xattrs",
		"acl+caps":    "acl caps",
		"H":           "blake3 sha256",
		"R+growing":   "flags gid growing inode link mode nlink type uid xattrs",
		"E":           "",
	} {
		set, err := c.parse(expression)
		if err != nil {
			t.Errorf("%s: %v", expression, err)
			continue
		}
		check, missing := set.check()
		if got := strings.Join(check, " "); got != want || len(missing) > 0 {
			t.Errorf("%s: got %q (missing %v), want %q", expression, got, missing, want)
		}
	}
	if _, err := c.parse("p+nonsense"); err == nil {
		t.Error("an unknown group was accepted")
	}
}

// What cannot be imported is named.
func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/conf.d/10_program", "#!/bin/sh\necho never run > "+dir+"/ran\n")
	if err := os.Chmod(dir+"/conf.d/10_program", 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/conf.d/20_plain", "/plain p\n")
	write(t, dir+"/aide.conf", fmt.Sprintf(`@@x_include %s/conf.d ^[a-z0-9_]+$
/a p+a
/b p+b
/c(?=d) p
/@@{NOTHING} p
/d nonsense
-/e f
`, dir))
	c, err := Import(dir+"/aide.conf", nil)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range c.Refused {
		got = append(got, fmt.Sprintf("%s:%d", filepath.Base(r.File), r.Line))
	}
	if diff := cmp.Diff([]string{"aide.conf:1", "aide.conf:2", "aide.conf:3", "aide.conf:4", "aide.conf:5", "aide.conf:6", "aide.conf:7"}, got); diff != "" {
		t.Errorf("%s\n%v", diff, c.Refused)
	}
	if _, err := os.Stat(dir + "/ran"); err == nil {
		t.Error("the program was run")
	}
	if len(c.positive) != 3 {
		t.Errorf("rules: %+v", c.positive)
	}
	for _, text := range []string{"", "@@if defined X\n/a p\n", "@@endif\n/a p\n", "@@include " + dir + "/loop\n"} {
		write(t, dir+"/loop", text)
		if c, err := Import(dir+"/loop", nil); err == nil {
			t.Errorf("%q: %+v", text, c)
		}
	}
}
