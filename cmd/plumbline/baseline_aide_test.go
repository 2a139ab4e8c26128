package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/plumbline-sec/plumbline/internal/lab"
)

// aideTree is a tree on which AIDE and plumbline look at the same changes.
type aideTree struct {
	t         *testing.T
	root, out string
	program   string // AIDE's
	format    string // its words here
	group     string // what AIDE compares
}

// aideReleases are the suites of Debian whose AIDE is compared with, and what its
// words are called here. They are unpacked, whatever the release this runs on.
var aideReleases = []struct{ suite, format string }{{"bookworm", "aide"}, {"trixie", "aide-0.19"}}

// unpackedAIDE is the AIDE of a suite.
func unpackedAIDE(t *testing.T, suite string) lab.AIDE {
	t.Helper()
	a, err := lab.OtherAIDE(t.Context(), suite, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// Rules that ask for the same in both languages.
const aideRules = `[[rule]]
path = "**"
level = "verify"
check = ["type", "mode", "inode", "link", "nlink", "uid", "gid", "size", "mtime", "ctime", "sha256", "xattrs", "flags"]
`
const aideSame = "l+p+u+g+s+c+m+i+n+sha256+acl+selinux+xattrs+ftype+e2fsattrs+caps"

func newAideTree(t *testing.T, suite, format string) *aideTree {
	t.Helper()
	a := &aideTree{t, onDisk(t), t.TempDir(), unpackedAIDE(t, suite).Program, format, aideSame}
	t.Setenv("HOME", a.out)
	t.Setenv("XDG_CONFIG_HOME", a.out)
	t.Setenv("XDG_STATE_HOME", a.out)
	a.write(a.out+"/rules.toml", aideRules)
	return a
}

// onDisk is a directory that is on no tmpfs: that has no flags, and lists xattrs in
// another order than AIDE has them in its report elsewhere.
func onDisk(t *testing.T) string {
	t.Helper()
	var fs unix.Statfs_t
	if dir := t.TempDir(); unix.Statfs(dir, &fs) != nil || fs.Type != unix.TMPFS_MAGIC {
		return dir
	}
	dir, err := os.MkdirTemp("/var/tmp", "plumbline-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// must lets only root be stopped by what only root may do.
func (a *aideTree) must(err error) {
	a.t.Helper()
	switch {
	case errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0:
		a.t.Logf("left out, it needs root: %v", err)
	case err != nil:
		a.t.Fatal(err)
	}
}

func (a *aideTree) write(path, text string) {
	a.t.Helper()
	a.must(os.MkdirAll(filepath.Dir(path), 0o755))
	a.must(os.WriteFile(path, []byte(text), 0o644))
}

func (a *aideTree) file(name, text string) { a.t.Helper(); a.write(filepath.Join(a.root, name), text) }

func (a *aideTree) xattr(name, key string, value []byte) {
	a.t.Helper()
	a.must(unix.Lsetxattr(filepath.Join(a.root, name), key, value, 0))
}

// aide runs AIDE and gives its report and exit code.
func (a *aideTree) aide(mode string, options ...string) (string, int) {
	a.t.Helper()
	conf := fmt.Sprintf("root_prefix=%[1]s\ndatabase_in=file:%[2]s/old\ndatabase_out=file:%[2]s/%[3]s\ndatabase_new=file:%[2]s/new\ndatabase_attrs=sha256\ngzip_dbout=no\n%[4]s\n/ %[5]s\n",
		a.root, a.out, map[string]string{"--init": "old", "--init-new": "new"}[mode], strings.Join(options, "\n"), a.group)
	a.write(a.out+"/aide.conf", conf)
	cmd := exec.Command(a.program, "--config="+a.out+"/aide.conf", strings.TrimSuffix(mode, "-new"))
	return a.run(cmd)
}

func (a *aideTree) run(cmd *exec.Cmd) (string, int) {
	a.t.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || cmd.ProcessState.ExitCode() >= 14 {
		a.t.Fatalf("%v: %v\n%s%s", cmd.Args, err, out, &stderr)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// plumbline runs this program.
func (a *aideTree) plumbline(args []string, options ...string) (string, int) {
	a.t.Helper()
	for _, o := range options {
		args = append(args, "--report-option", o)
	}
	self, err := os.Executable()
	a.must(err)
	return a.run(&exec.Cmd{Path: self, Args: append([]string{"plumbline"}, args...)})
}

// What differs from run to run: times, and the databases' names and digests.
var runSpecific = regexp.MustCompile(`(?m)^(Start timestamp: |End timestamp: |New AIDE database written to ).*$`)

func comparable(report string) string {
	report = runSpecific.ReplaceAllString(report, "$1")
	if i := strings.Index(report, "The attributes of the (uncompressed) database(s):"); i >= 0 {
		report = report[:i] + regexp.MustCompile(`(?m)^(/| SHA256    : |             ).*$`).ReplaceAllString(report[i:], "$1")
	}
	return report
}

// same compares both reports and exit codes.
func (a *aideTree) same(what string, theirs string, theirCode int, ours string, ourCode int) {
	a.t.Helper()
	if theirs = comparable(theirs); theirs == "" {
		a.t.Errorf("%s: AIDE says nothing", what)
	}
	if diff := cmp.Diff(strings.SplitAfter(theirs, "\n"), strings.SplitAfter(comparable(ours), "\n")); diff != "" || theirCode != ourCode {
		a.t.Errorf("%s: AIDE -, exit %d; plumbline +, exit %d:\n%s", what, theirCode, ourCode, diff)
	}
}

// capability is the xattr that "setcap" writes: revision 2.
func capability(permitted, inheritable uint32, effective byte) []byte {
	return []byte{effective, 0, 0, 2, byte(permitted), byte(permitted >> 8), byte(permitted >> 16), byte(permitted >> 24),
		byte(inheritable), byte(inheritable >> 8), byte(inheritable >> 16), byte(inheritable >> 24), 0, 0, 0, 0, 0, 0, 0, 0}
}

// acl is a POSIX ACL with an entry for user 4242 and a mask.
func acl(user, mask byte) []byte {
	return []byte{2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, user, 0, 0x92, 0x10, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255,
		0x10, 0, mask, 0, 255, 255, 255, 255, 0x20, 0, 4, 0, 255, 255, 255, 255}
}

// populate makes what the changes are made of.
func (a *aideTree) populate() {
	for _, name := range []string{"same", "content", "grown", "shrunk", "mode", "setuid", "owner", "touched", "replaced", "linked",
		"removed", "dir/removed", "becomes-link", "becomes-dir", "acl", "acl-changed", "xattr", "xattr-changed", "xattrs", "caps",
		"caps-changed", "caps-removed", "selinux", "flags", "names/with space", "names/with%20percent", "names/back\\slash", "names/tab\there",
		"names/new\nline", "names/del\x7f", "names/ümläut", "names/latin-\xfc", "names/gone-\xfc", "names/#hash", "a/b", "a-b", "a.b/c", "hole", "three-a"} {
		a.file(name, "content of "+name+"\n")
	}
	a.file("names/"+strings.Repeat("n", 250), "x")
	for i := range 200 {
		a.file(fmt.Sprintf("many/file%03d", i), fmt.Sprint(i))
	}
	for name, target := range map[string]string{"link": "same", "long-link": strings.Repeat("t/", 32) + "x", "wide-link": strings.Repeat("w", 65), "odd-link": "a\tb\xff\\", "link-removed": "x"} {
		a.must(os.Symlink(target, filepath.Join(a.root, name)))
	}
	a.must(os.Link(a.root+"/three-a", a.root+"/three-b"))
	a.must(syscall.Mkfifo(a.root+"/fifo", 0o600))
	a.must(syscall.Mknod(a.root+"/char", syscall.S_IFCHR|0o600, 1<<8|3))
	a.must(syscall.Mknod(a.root+"/block", syscall.S_IFBLK|0o660, 7<<8))
	a.must(syscall.Mknod(a.root+"/socket", syscall.S_IFSOCK|0o755, 0))
	a.xattr("acl-changed", "system.posix_acl_access", acl(7, 4))
	a.xattr("xattr-changed", "user.a", []byte("old"))
	for i := range 11 {
		a.xattr("xattrs", fmt.Sprintf("user.%02d", i), []byte{byte(i), 'x'})
	}
	a.xattr("caps-changed", "security.capability", capability(1<<13, 0, 1))
	a.xattr("caps-removed", "security.capability", capability(1<<10, 1<<12, 0))
	a.xattr("selinux", "security.selinux", []byte("system_u:object_r:etc_t:s0\x00"))
	old := time.Date(2001, 2, 3, 4, 5, 6, 7, time.UTC)
	a.must(filepath.WalkDir(a.root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type()&fs.ModeSymlink == 0 {
			err = os.Chtimes(path, old, old)
		}
		return err
	}))
}

// change changes something of every kind.
func (a *aideTree) change() {
	at := func(name string) string { return filepath.Join(a.root, name) }
	a.file("content", "CONTENT of content\n")
	a.file("grown", "content of grown\nand more\n")
	a.file("shrunk", "content")
	a.must(syscall.Chmod(at("mode"), 0o7640))
	a.must(syscall.Chmod(at("setuid"), 0o5755))
	a.must(os.Chown(at("owner"), 1234567, 89))
	a.must(os.Chtimes(at("touched"), time.Time{}, time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)))
	a.must(os.WriteFile(at("tmp"), []byte("content of replaced\n"), 0o644))
	a.must(os.Rename(at("tmp"), at("replaced")))
	a.must(os.Link(at("linked"), at("linked-again")))
	for _, name := range []string{"removed", "dir/removed", "link-removed", "becomes-link", "becomes-dir", "link", "long-link", "wide-link", "odd-link", "three-a", "names/gone-\xfc"} {
		a.must(os.Remove(at(name)))
	}
	a.must(os.Symlink("same", at("becomes-link")))
	a.must(os.Mkdir(at("becomes-dir"), 0o700))
	a.must(os.Symlink("content", at("link")))
	a.must(os.Symlink(strings.Repeat("u/", 48)+"y", at("long-link")))
	a.must(os.Symlink(strings.Repeat("v", 33), at("wide-link")))
	a.must(os.Symlink("c\nd\xfe", at("odd-link")))
	a.xattr("acl", "system.posix_acl_access", acl(6, 6))
	a.xattr("acl-changed", "system.posix_acl_access", acl(5, 7))
	a.xattr("dir", "system.posix_acl_default", acl(7, 5))
	a.xattr("xattr", "user.note", []byte("text"))
	a.xattr("xattr-changed", "user.a", []byte("new value with blanks"))
	a.must(unix.Removexattr(at("xattrs"), "user.10"))
	a.xattr("caps", "security.capability", capability(1<<13|1<<12, 1<<21, 1))
	a.xattr("caps-changed", "security.capability", capability(1<<13|1<<21|1, 0, 0))
	a.must(unix.Removexattr(at("caps-removed"), "security.capability"))
	a.xattr("selinux", "security.selinux", []byte("system_u:object_r:shadow_t:s0\x00"))
	a.flags("flags", 0x40)
	a.file("added", "")
	a.file("added-dir/deep/file", "x")
	a.must(os.Symlink("nowhere", at("added-link")))
	a.must(syscall.Mkfifo(at("added-fifo"), 0o644))
	a.must(os.Rename(at("a-b"), at("a.b/moved")))
	a.must(filepath.WalkDir(at("names"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			err = os.WriteFile(path, []byte("changed\n"), 0o644)
		}
		return err
	}))
	for i := 0; i < 200; i += 3 {
		a.must(os.WriteFile(fmt.Sprintf("%s/many/file%03d", a.root, i), []byte("other"), 0o644))
	}
	a.must(os.Chmod(at("char"), 0o666))
	a.must(os.Chown(at("socket"), 5, 0))
	a.must(os.Chmod(at("fifo"), 0o620))
	a.must(syscall.Chmod(at("block"), 0o2644))
}

func (a *aideTree) flags(name string, flags uint32) {
	a.t.Helper()
	f, err := os.Open(filepath.Join(a.root, name))
	a.must(err)
	defer f.Close()
	old, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	a.must(err)
	a.must(unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(old|flags)))
}

// settings are the report options that both are given.
var settings = [][]string{
	nil, {"report_level=minimal"}, {"report_level=summary"}, {"report_level=database_attributes"}, {"report_level=list_entries"},
	{"report_level=added_removed_attributes"}, {"report_level=added_removed_entries"},
	{"report_grouped=no"}, {"report_summarize_changes=no"}, {"report_summarize_changes=no", "report_grouped=no"},
	{"report_base16=yes"}, {"report_quiet=yes"}, {"report_ignore_changed_attrs=m+c"}, {"report_ignore_changed_attrs=s+sha256+m+c+acl"},
	{"report_ignore_added_attrs=caps+l", "report_ignore_removed_attrs=caps+sha256"}, {"report_force_attrs=p+u+n"},
	{"report_ignore_e2fsattrs=de"}, {"report_level=added_removed_entries", "report_force_attrs=s", "report_grouped=no"},
}

// Reports and exit codes are those of AIDE 0.18.3 and 0.19.1, byte by byte, but for
// times and for names and digests of databases.
func TestReportsAsAIDE(t *testing.T) {
	for _, release := range aideReleases {
		for _, zone := range []string{"UTC", "America/St_Johns"} {
			t.Run(release.format+"/"+zone, func(t *testing.T) {
				t.Setenv("TZ", zone)
				a := newAideTree(t, release.suite, release.format)
				a.populate()
				tried := settings
				if zone != "UTC" {
					tried = settings[:1]
				}
				a.compare(tried)
			})
		}
	}
}

// compare has both look at the tree, before and after the changes.
func (a *aideTree) compare(settings [][]string) {
	a.t.Helper()
	file := a.out + "/b"
	create := []string{"baseline", "create", "--root", a.root, "--rules", a.out + "/rules.toml", "--format", a.format, "-f"}
	theirs, theirCode := a.aide("--init")
	ours, ourCode := a.plumbline(append(create, file))
	a.same("init", theirs, theirCode, ours, ourCode)
	check := []string{"baseline", "check", "--root", a.root, "-f", file, "--format", a.format}
	theirs, theirCode = a.aide("--check")
	ours, ourCode = a.plumbline(check)
	a.same("nothing changed", theirs, theirCode, ours, ourCode)

	a.change()
	for _, options := range settings {
		theirs, theirCode = a.aide("--check", options...)
		ours, ourCode = a.plumbline(check, options...)
		a.same(fmt.Sprint("check ", options), theirs, theirCode, ours, ourCode)
	}
	theirs, theirCode = a.aide("--init-new", "report_detailed_init=yes", "report_level=added_removed_entries")
	ours, ourCode = a.plumbline(append(create, a.out+"/new.b"), "report_detailed_init=yes", "report_level=added_removed_entries")
	a.same("detailed init", theirs, theirCode, ours, ourCode)
	theirs, theirCode = a.aide("--compare")
	ours, ourCode = a.plumbline([]string{"baseline", "diff", file, a.out + "/new.b", "--format", a.format})
	a.same("compare", theirs, theirCode, ours, ourCode)
}

// Rules that ask for parts of the extended attributes.
func TestReportsPartsOfXattrsAsAIDE(t *testing.T) {
	for _, release := range aideReleases {
		for group, check := range map[string]string{"p+ftype+acl": "'mode','acl'", "ftype+caps+selinux": "'caps','selinux'"} {
			t.Run(release.format+"/"+group, func(t *testing.T) {
				a := newAideTree(t, release.suite, release.format)
				a.group = group
				a.write(a.out+"/rules.toml", "[[rule]]\npath='**'\nlevel='verify'\ncheck=["+check+"]\n")
				a.populate()
				a.compare(settings[4:7])
			})
		}
	}
}
