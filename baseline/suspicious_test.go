package baseline

import (
	"slices"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// Each pattern's attack, and the upkeep that looks most like it.
func TestDetectsSuspiciousPatterns(t *testing.T) {
	capability := []filewatch.Xattr{{Name: "security.capability", Value: []byte{1, 0, 0, 2, 0, 32, 0, 0}}}
	program := func(fs *files, inode uint64, name string, mode uint16) {
		fs.put(inode, "program "+name, name).Mode = mode
	}
	device := func(fs *files, inode uint64, name string, kind filewatch.Type, minor uint32) {
		o := fs.put(inode, "", name)
		o.Type, o.Major, o.Minor, o.Mode = kind, 8, minor, 0o660
	}
	for _, c := range []struct {
		pattern        Pattern
		attack, benign func(fs *files)
	}{
		{TimesPutBack,
			func(fs *files) { fs.put(13, "trojan", "/usr/bin/env").Mtime = fs.objects[11].Mtime },
			func(fs *files) { fs.put(13, "update", "/usr/bin/env").Mtime = epoch.Add(time.Hour) }},
		{TimesPutBack, // to the year before, which is not what it was
			func(fs *files) { fs.put(11, "trojan", "/etc/motd").Mtime = epoch },
			func(fs *files) { fs.objects[11].Mtime = epoch.Add(time.Hour) }}, // touched
		{SetuidAdded,
			func(fs *files) { fs.objects[13].Mode = 0o4755 },
			func(fs *files) { fs.objects[13].Mode = 0o700 }},
		{SetuidAdded,
			func(fs *files) { program(fs, 90, "/usr/bin/new", 0o2755) },
			func(fs *files) { o := fs.put(90, "", "/usr/share/d"); o.Type, o.Mode = filewatch.TypeDir, 0o2775 }},
		{CapabilityAdded,
			func(fs *files) { fs.objects[13].Xattrs = capability },
			func(fs *files) {
				fs.objects[13].Xattrs = []filewatch.Xattr{{Name: "user.comment", Value: []byte("x")}}
			}},
		{OddName,
			func(fs *files) { program(fs, 90, "/usr/bin/.hidden", 0o644) },
			func(fs *files) { program(fs, 90, "/root/.bashrc", 0o644) }},
		{OddName,
			func(fs *files) { program(fs, 90, "/var/tmp/...", 0o644) },
			func(fs *files) { program(fs, 90, "/var/tmp/..x", 0o644) }},
		{OddName,
			func(fs *files) { program(fs, 90, "/etc/motd ", 0o644) },
			func(fs *files) { program(fs, 90, "/etc/motd new", 0o644) }},
		{OddName, // right-to-left override
			func(fs *files) { program(fs, 90, "/etc/\u202efdp.exe", 0o644) },
			func(fs *files) { program(fs, 90, "/etc/\u05e9\u05dc\u05d5\u05dd", 0o644) }}, // written from right to left
		{LogTruncated,
			func(fs *files) { fs.put(14, "", "/var/log/syslog") },
			func(fs *files) { fs.put(14, "line 1\nmore\n", "/var/log/syslog") }},
		{DeviceOutOfPlace,
			func(fs *files) { device(fs, 90, "/var/lib/disk", filewatch.TypeBlock, 1) },
			func(fs *files) { device(fs, 90, "/dev/sda9", filewatch.TypeBlock, 9) }},
		{DeviceOutOfPlace, // 0:0 is how overlayfs marks what is gone
			func(fs *files) { device(fs, 90, "/etc/mem", filewatch.TypeChar, 1) },
			func(fs *files) {
				o := fs.put(90, "", "/var/lib/overlay/whiteout")
				o.Type, o.Major, o.Minor = filewatch.TypeChar, 0, 0
			}},
		{ExecutableOutOfPlace,
			func(fs *files) { program(fs, 90, "/tmp/x", 0o755) },
			func(fs *files) { program(fs, 90, "/usr/bin/x", 0o755) }},
		{ExecutableOutOfPlace,
			func(fs *files) { fs.objects[14].Mode = 0o755 }, // a log that can be run
			func(fs *files) { fs.objects[14].Mode = 0o600 }},
	} {
		for name, change := range map[string]func(*files){"attack": c.attack, "benign": c.benign} {
			now := tree()
			change(now)
			found := false
			report := check(t, tree(), now, nil)
			if len(report.Changes) == 0 {
				t.Errorf("%s, %s: nothing differs", c.pattern, name)
			}
			for _, change := range report.Changes {
				found = found || slices.Contains(change.Suspicious, c.pattern)
			}
			if found != (name == "attack") {
				t.Errorf("%s: %s %v: %v", c.pattern, name, found, brief(report))
			}
		}
	}
}
