package aide

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/internal/lab"
)

const config = `# comment
root_prefix=@ROOT@
@@define TOP top
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

// aides are the AIDE of each release, out of Debian's suites.
var aides = map[Release]string{Release018: "bookworm", Release019: "trixie"}

// held compares what AIDE and the imported rules select below root.
func held(t *testing.T, release Release, root, config string) {
	t.Helper()
	other, err := lab.OtherAIDE(t.Context(), aides[release], t.Output())
	if err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	conf := filepath.Join(out, "aide.conf")
	write(t, conf, strings.NewReplacer("@ROOT@", root, "@OUT@", out).Replace(config))
	if text, err := exec.Command(other.Program, "--init", "--config="+conf).CombinedOutput(); err != nil {
		t.Fatalf("aide: %v\n%s", err, text)
	}
	database, err := os.ReadFile(filepath.Join(out, "db"))
	if err != nil {
		t.Fatal(err)
	}
	var theirs []string
	for line := range strings.Lines(string(database)) {
		if name, _, _ := strings.Cut(line, " "); strings.HasPrefix(name, "/") {
			theirs = append(theirs, strings.NewReplacer("%20", " ", "%40", "@", "%25", "%").Replace(name))
		}
	}
	slices.Sort(theirs)
	c, err := Import(conf, &Options{Release: release})
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
		name := cmp.Or(strings.TrimPrefix(path, root), "/")
		if rules.Match(name, o).Level != filewatch.Ignore {
			ours = append(ours, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(ours)
	if diff := gocmp.Diff(theirs, ours); diff != "" || len(theirs) == 0 {
		t.Errorf("AIDE %s selects -, we +:\n%s\n%s", release, diff, c.TOML())
	}
}

// The imported rules select what AIDE itself selects.
func TestSelectsWhatAIDESelects(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"etc/a", "etc/skip/x", "etc/skipped", "etc/deep/f", "etc/deep/d/f", "etc/x.bak", "only/inside",
		"log/a.log", "log/a.txt", "log/sub/b.log", "sp ace/f", "bin/sh", "bin/x.bak/f", "usr/x", "etcetera"} {
		write(t, filepath.Join(root, "top", name), name)
	}
	for release := range aides {
		t.Run(string(release), func(t *testing.T) { held(t, release, root, config) })
	}
}

// What a directory that is left out leaves out below it is not the same in each.
func TestLeavesOutWhatAIDELeavesOut(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"a/x", "a/a/x", "ab", "b/x", "c/d/x", "c/dd/x", "e/f/x", "e/ff/x", "e/fx", "g/hi/x", "g/h", "i/j/x", "i/k/x", "i/jj", "l/m", "l/n/m/x"} {
		write(t, filepath.Join(root, name), name)
	}
	for release, rules := range map[Release][]string{
		Release018: {"!/a$", "!/a$\n!/a/x", "!/b$ d", "!/(c/d|e/f)$", "!/e/f", "!/i/[j$]$", "!/l/m$ f"},
		Release019: {"!/a$", "!/a$\n!/a/x", "!/b$ d", "!/(c/d|e/f)$", "!/e/f", "!/i/[j$]$", "!/l/m$ f",
			"-/a$", "-/a$ 0", "-/b$ d", "-/(c/d|e/f)$", "-/e/f", "-/e/f d", "-/e/f f", "-/e/f$ d", "-/g/h f,d", "-/i/j$\n!/i/k", "-/l/.*m$ f", "-/l/n/ d",
			"@@if @@{AIDE_VERSION} version_ge 0.19\n-/a$\n@@else\n-/b$\n@@endif", "@@if 0.18.9-rc version_ge 0.19\n-/a$\n@@endif\n@@if not 1.2 version_ge 1.2.1\n!/c\n@@endif"},
	} {
		for i, r := range rules {
			t.Run(fmt.Sprint(release, " ", i), func(t *testing.T) {
				held(t, release, root, "database_out=file:@OUT@/db\ngzip_dbout=no\nroot_prefix=@ROOT@\n"+r+"\n/ p\n")
			})
		}
	}
}

// Rules for one path alone, and paths written in other ways.
func TestSelectsOnlyWhatAIDESelects(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"a/x", "a/d/x", "ab", "abc/x", "sp ace/x", "per%cent/x", "at@/x"} {
		write(t, filepath.Join(root, name), name)
	}
	for release := range aides {
		for i, r := range []string{"=/a p", "=/a/ p", "=/a$ p", "=/a d p", "=/a/x p", "=/a.*c p", "=/a.* p", "=/a[^c]* p", "=/[a]/x p", "=/[a]/x p\n/a$ p", "=/(ab|a.*/x) p", "/sp%20ace p", "/sp\\ ace p", "/at\\@ p", "/per%25cent p"} {
			t.Run(fmt.Sprint(release, " ", i), func(t *testing.T) {
				held(t, release, root, "database_out=file:@OUT@/db\ngzip_dbout=no\nroot_prefix=@ROOT@\n"+r+"\n/abc p\n")
			})
		}
	}
}

// Where it is not said whose lines they are, none leaves out more than it would in
// either, and it is named.
func TestNamesLinesThatReleasesTakeOtherwise(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/aide.conf", "!/same\n!/other$\n!/types$ d\n/ p\n")
	c, err := Import(dir+"/aide.conf", nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Refused) != 1 || c.Refused[0].Line != 2 || c.negative[1].regex != "^(?:/other$)" {
		t.Errorf("named %v, rules %+v", c.Refused, c.negative)
	}
	for release := range aides {
		if c, err := Import(dir+"/aide.conf", &Options{Release: release}); err != nil || len(c.Refused) > 0 {
			t.Errorf("%s: %v, %v", release, err, c.Refused)
		}
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
	c, err := Import(dir+"/aide.conf", &Options{Outputs: dir + "/outputs", Defines: map[string]string{"C": "gamma"}, Release: Release018})
	if err != nil || len(c.Refused) > 0 {
		t.Fatalf("%v, %v", err, c.Refused)
	}
	var got []string
	for _, r := range append(c.negative, c.positive...) {
		got = append(got, r.regex)
	}
	want := []string{"^(?:/prefix/gone(?:/|$))", "^(?:/prefix/dir$)", "^(?:/prefix/from/program)", "^(?:/prefix/alpha/gamma)", "^(?:/after)"}
	if diff := gocmp.Diff(want, got); diff != "" {
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
	c, err := Import(dir+"/aide.conf", &Options{Release: Release018})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range c.Refused {
		got = append(got, fmt.Sprintf("%s:%d", filepath.Base(r.File), r.Line))
	}
	if diff := gocmp.Diff([]string{"aide.conf:1", "aide.conf:2", "aide.conf:3", "aide.conf:4", "aide.conf:5", "aide.conf:6", "aide.conf:7"}, got); diff != "" {
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

// What AIDE 0.19 has and rules do not is named, and so is what 0.18 does not have.
func TestNamesWhatOneReleaseHas(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		line, hostname string
		release        Release
		want           string // of the reason; "" for none
	}{
		{"/a =vfat p", "", Release019, "one type of file system (vfat)"},
		{"/a d=0x01021994 p", "", Release019, "one type of file system (0x01021994)"},
		{"!/a =tmpfs", "", Release019, "one type of file system (tmpfs)"},
		{"/a p+fstype", "", Release019, "attribute fstype"},
		{"/a sha3_256+sha3_512+sha512_256", "", Release019, ""},
		{"-/(a|b$) d", "", Release019, "one $, at its end"},
		{"-/a$/b$ d", "", Release019, "one $, at its end"},
		{"!/a f p", "", Release019, "has no group"},
		{"-/a", "", Release018, "no such rules"},
		{"@@if 0.18 version_ge 0.17\n/x p\n@@endif", "", Release018, "no condition"},
		{"@@if 0.18 version_ge x\n/x p\n@@endif", "", Release019, "want MAJOR.MINOR.PATCH"},
		{"/@@{HOSTNAME} p", "", Release019, "@@{HOSTNAME} is not defined"},
		{"/@@{HOSTNAME} p", "vm1", Release018, ""},
		{"summarize_changes=no", "", Release019, "unknown attribute or group"},
		{"report_format=json\nnum_workers=60%", "", Release019, ""},
	} {
		write(t, dir+"/aide.conf", c.line+"\n/taken p\n")
		got, err := Import(dir+"/aide.conf", &Options{Hostname: c.hostname, Release: c.release})
		if err != nil {
			t.Errorf("%q: %v", c.line, err)
			continue
		}
		if len(got.Refused) != min(len(c.want), 1) || c.want != "" && !strings.Contains(got.Refused[0].String(), c.want) {
			t.Errorf("%q: named %v, want %q", c.line, got.Refused, c.want)
		}
	}
}
