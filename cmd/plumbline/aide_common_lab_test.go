//go:build lab

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/baseline/aide"
	"github.com/plumbline-sec/plumbline/filewatch"
)

// All of Debian's aide-common, of both releases: what it selects of a Debian tree is
// what the imported rules select. AIDE's programs are run once, and both sides read
// what they print.
func TestAideCommonSelectsTheSame(t *testing.T) {
	for suite, c := range map[string]struct {
		release aide.Release
		refused []string // lines that rules do not have
	}{
		"bookworm": {aide.Release018, nil},
		"trixie":   {aide.Release019, []string{"/ =vfat Full-i"}},
	} {
		t.Run(suite, func(t *testing.T) { aideCommon(t, suite, c.release, c.refused) })
	}
}

func aideCommon(t *testing.T, suite string, release aide.Release, refused []string) {
	dir, root := t.TempDir(), t.TempDir()
	command := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir = dir
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s %q: %v %s", name, args, err, out)
		}
		return string(out)
	}
	unpacked := unpackedAIDE(t, suite)
	conf := filepath.Join(dir, "aide")
	command("cp", "-a", unpacked.Config, conf)
	files, programs := 0, 0
	entries, err := os.ReadDir(conf + "/aide.conf.d")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		files++
		program := filepath.Join(conf, "aide.conf.d", e.Name())
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode()&0o111 != 0 {
			programs++
			out := command("env", "-i", "PATH=/bin:/usr/bin", "UPAC_settingsd="+conf+"/aide.settings.d", program)
			if err := os.WriteFile(program, []byte(out), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(program, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	if files < 190 || programs < 10 {
		t.Fatalf("%d files, %d programs", files, programs)
	}
	// AIDE is told where its files and the tree are.
	text, err := os.ReadFile(conf + "/aide.conf")
	if err != nil {
		t.Fatal(err)
	}
	config := regexp.MustCompile(`(?m)^(database_|gzip_dbout).*$`).ReplaceAllString(string(text), "")
	config = strings.ReplaceAll(config, "/etc/aide/", conf+"/") +
		fmt.Sprintf("\nroot_prefix=%s\ndatabase_out=file:%s/db\ngzip_dbout=no\n", root, dir)
	if err := os.WriteFile(dir+"/aide.conf", []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}

	c, err := aide.Import(dir+"/aide.conf", &aide.Options{Release: release})
	if err != nil {
		t.Fatal(err)
	}
	skeleton(t, root)
	hits(t, root, c.TOML())
	command(unpacked.Program, "--config="+dir+"/aide.conf", "--init")
	database, err := os.ReadFile(dir + "/db")
	if err != nil {
		t.Fatal(err)
	}
	percent := regexp.MustCompile(`%[0-9A-F]{2}`)
	theirs := map[string]bool{}
	for line := range strings.Lines(string(database)) {
		if name, _, _ := strings.Cut(line, " "); strings.HasPrefix(name, "/") {
			theirs[percent.ReplaceAllStringFunc(name, func(hex string) string {
				var b byte
				fmt.Sscanf(hex, "%%%X", &b)
				return string([]byte{b})
			})] = true
		}
	}
	var left []string
	for _, r := range c.Refused {
		if !strings.Contains(r.Reason, "the rest of the rule is taken") {
			left = append(left, r.Text)
		}
	}
	if diff := cmp.Diff(refused, left); diff != "" {
		t.Errorf("lines that are not imported:\n%s", diff)
	}
	rules, err := filewatch.ParseRules(c.TOML())
	if err != nil {
		t.Fatal(err)
	}
	var only, missing []string
	objects := 0
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		objects++
		info, err := d.Info()
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, root)
		if name == "" {
			name = "/"
		}
		ours := rules.Match(name, &filewatch.Object{Type: objectType(info.Mode())}).Level != filewatch.Ignore
		switch {
		case ours && !theirs[name]:
			only = append(only, name)
		case !ours && theirs[name]:
			missing = append(missing, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(only)
	if diff := cmp.Diff([][]string{nil, nil}, [][]string{only, missing}); diff != "" {
		t.Errorf("selected by us only, by AIDE only:\n%s", diff)
	}
	t.Logf("%d files of aide-common, %d of them programs; %d of %d objects selected", files, programs, len(theirs), objects)
	if len(theirs) < 1000 {
		t.Errorf("AIDE selects %d objects", len(theirs))
	}
}

func objectType(mode fs.FileMode) filewatch.Type {
	switch {
	case mode.IsDir():
		return filewatch.TypeDir
	case mode&fs.ModeSymlink != 0:
		return filewatch.TypeSymlink
	}
	return filewatch.TypeFile
}

// skeleton is the tree of the packages installed here, with empty files, and what
// a machine that runs leaves in /var, /run and /etc.
func skeleton(t *testing.T, root string) {
	t.Helper()
	lists, err := filepath.Glob("/var/lib/dpkg/info/*.list")
	if err != nil || len(lists) == 0 {
		t.Fatalf("no Debian here: %v", err)
	}
	for i, list := range lists {
		if i%25 != 0 {
			continue // AIDE takes minutes for all of them
		}
		text, err := os.ReadFile(list)
		if err != nil {
			t.Fatal(err)
		}
		for name := range strings.Lines(string(text)) {
			name = strings.TrimSuffix(name, "\n")
			if info, err := os.Lstat(name); err == nil {
				place(t, root, name, info.Mode())
			}
		}
	}
	for _, name := range strings.Fields(`/var/log/syslog /var/log/syslog.1 /var/log/syslog.2.gz /var/log/auth.log /var/log/auth.log.1
		/var/log/auth.log.4.gz /var/log/dpkg.log.1 /var/log/apt/history.log.1.gz /var/log/wtmp.1 /var/log/journal/x/system.journal
		/var/log/aide/aide.log /var/log/aide/aide.log.0 /var/log/exim4/mainlog.3.gz /var/log/apache2/access.log.14.gz
		/var/lib/dpkg/status-old /var/lib/apt/lists/lock /var/lib/apt/lists/x_InRelease /var/lib/systemd/random-seed /var/lib/dhcp/dhclient.eth0.leases
		/var/cache/man/index.db /var/cache/apt/pkgcache.bin /var/cache/apt/archives/x_1_amd64.deb /var/tmp/x/y /var/spool/cron/crontabs/root
		/var/spool/exim4/input/1abc-D /var/mail/root /run/systemd/units/log-extra-fields:x /run/lock/x /run/user/1000/bus /run/sshd.pid /run/utmp
		/tmp/x /root/.bash_history /root/.ssh/authorized_keys /home/a/.bashrc /home/a/file /etc/.pwd.lock /etc/resolv.conf /etc/mtab /etc/aliases.db
		/etc/cups/subscriptions.conf.O /etc/lvm/backup/x /boot/grub/grubenv /lib/modules/6.1.0/modules.dep /srv/www/x /opt/x /proc/1/stat /sys/x /dev/pts/0
		/dev/shm/x /media/x /mnt/x /lost+found/#1 /usr/local/bin/x /var/backups/dpkg.status.1.gz /var/lib/logrotate/status /var/lib/mysql/ibdata1`) {
		place(t, root, name, 0o644)
	}
}

// hits places what rules match, something a little longer, and something below.
func hits(t *testing.T, root string, rules []byte) {
	t.Helper()
	for _, m := range regexp.MustCompile(`(?m)^regex = (".*")$`).FindAllSubmatch(rules, -1) {
		expression, err := strconv.Unquote(string(m[1]))
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := syntax.Parse(expression, syntax.Perl)
		if err != nil {
			t.Fatal(err)
		}
		name := path.Clean(sample(parsed))
		place(t, root, name+"x", 0o644)
		place(t, root, name+".d/below", 0o644)
		if len(name)%3 == 0 { // a name can be of one type only
			place(t, root, name+"/below", 0o644)
		} else {
			place(t, root, name, 0o644)
		}
	}
}

// sample is a text that an expression matches, nearly the shortest.
func sample(re *syntax.Regexp) string {
	switch re.Op {
	case syntax.OpLiteral:
		return string(re.Rune)
	case syntax.OpCharClass:
		for i := 0; i+1 < len(re.Rune); i += 2 {
			for r := max(re.Rune[i], '0'); r <= min(re.Rune[i+1], 'z'); r++ {
				if r != '/' {
					return string(r)
				}
			}
		}
		return string(re.Rune[0])
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return "y"
	case syntax.OpRepeat:
		return strings.Repeat(sample(re.Sub[0]), max(re.Min, 1))
	case syntax.OpAlternate:
		return sample(re.Sub[len(re.Sub)-1])
	}
	var b strings.Builder
	for _, sub := range re.Sub {
		b.WriteString(sample(sub))
	}
	return b.String()
}

func place(t *testing.T, root, name string, mode fs.FileMode) {
	t.Helper()
	at := filepath.Join(root, name)
	dir := at
	if !mode.IsDir() {
		dir = filepath.Dir(at)
	}
	err := os.MkdirAll(dir, 0o755)
	if _, errStat := os.Lstat(at); err == nil && errStat != nil {
		switch {
		case mode&fs.ModeSymlink != 0:
			err = os.Symlink("x", at)
		case !mode.IsDir():
			err = os.WriteFile(at, nil, 0o644)
		}
	}
	// What lies behind a symbolic link (/bin) has its own name in another list.
	if err != nil && !errors.Is(err, syscall.ENOTDIR) && !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}
