package baseline

import (
	"fmt"
	"strings"
	"testing"

	"github.com/zeebo/blake3"
)

// TestRotatedElsewhere has logrotate's "olddir" and "extension", and what an attacker
// makes of them.
func TestRotatedElsewhere(t *testing.T) {
	for name, c := range map[string]rotationCase{
		"olddir": {func(fs *files) {
			fs.objects[14].names = []string{"/var/log/old/syslog.1"}
			fs.put(24, "new\n", "/var/log/syslog")
		}, nil},
		"olddir, copytruncate, compress": {func(fs *files) {
			fs.put(14, "", "/var/log/syslog")
			fs.put(24, packed(t, ".gz", "line 1\nlast\n"), "/srv/log/syslog.1.gz")
		}, []string{"added /srv/log/syslog.1.gz [] []", truncated}}, // which no rule calls a log
		"olddir, copytruncate, compress, below": {func(fs *files) {
			fs.put(14, "", "/var/log/syslog")
			fs.put(24, packed(t, ".gz", "line 1\nlast\n"), "/var/log/old/syslog.1.gz")
		}, nil},
		"olddir, three times": {func(fs *files) {
			delete(fs.objects, 14)
			fs.put(24, packed(t, ".gz", "line 1\nlast\n"), "/var/log/old/syslog-20260102.gz")
			fs.put(26, packed(t, ".gz", "new\n"), "/var/log/old/syslog-20260103.gz")
			fs.put(27, "newest\n", "/var/log/syslog")
		}, nil},
		"extension": {func(fs *files) {
			fs.objects[17].names = []string{"/var/log/auth.1.log"}
			fs.put(24, "new\n", "/var/log/auth.log")
		}, nil},
		"extension, dateext, compress, twice": {func(fs *files) {
			delete(fs.objects, 17)
			fs.put(24, packed(t, ".gz", "other\nlast\n"), "/var/log/auth-20260102.log.gz")
			fs.put(26, "new\n", "/var/log/auth-20260103.log")
			fs.put(27, "newest\n", "/var/log/auth.log")
		}, nil},
		"extension, olddir, copytruncate": {func(fs *files) {
			fs.put(24, "other\n", "/var/log/old/auth.1.log")
			fs.put(17, "", "/var/log/auth.log")
		}, nil},

		"in a place that no rule calls a log's": {func(fs *files) {
			fs.objects[14].names = []string{"/data/syslog.1"}
			fs.put(24, "new\n", "/var/log/syslog")
		}, []string{"changed /data/syslog.1 [path] []", "added /var/log/syslog [] []"}},
		"in a hidden place": {func(fs *files) {
			fs.objects[14].names = []string{"/var/log/.x/syslog.1"}
			fs.put(24, "new\n", "/var/log/syslog")
		}, []string{"changed /var/log/.x/syslog.1 [path] []", "added /var/log/syslog [] []"}},
		"an altered copy in the other place": {func(fs *files) {
			fs.put(14, "", "/var/log/syslog")
			fs.put(24, "LINE 1\nlast\n", "/var/log/old/syslog.1")
		}, []string{"added /var/log/old/syslog.1 [] []", truncated}},
		"an altered copy with the extension": {func(fs *files) {
			fs.put(17, "", "/var/log/auth.log")
			fs.put(24, "OTHER\nlast\n", "/var/log/auth.1.log")
		}, []string{"added /var/log/auth.1.log [] []", strings.Replace(truncated, "syslog", "auth.log", 1)}},
		"a rotation that went on in another place": {func(fs *files) {
			fs.objects[15].names = []string{"/var/log/old/syslog.2"}
		}, []string{"changed /var/log/old/syslog.2 [path] []"}},
		"a rotation under another scheme": {func(fs *files) {
			fs.objects[17].names = []string{"/var/log/auth.1.log"}
			fs.put(24, "new\n", "/var/log/auth.log")
			fs.put(26, "mine\n", "/var/log/auth.log.0")
		}, []string{"added /var/log/auth.log.0 [] []"}},
		"older than what the log became": {func(fs *files) {
			fs.objects[14].names = []string{"/var/log/old/syslog.1"}
			fs.put(24, "new\n", "/var/log/syslog")
			fs.put(26, "mine\n", "/var/log/old/syslog.2")
		}, []string{"added /var/log/old/syslog.2 [] []"}},
		"in the log's own place, which it left": {func(fs *files) {
			fs.objects[14].names = []string{"/var/log/old/syslog.3"}
			fs.put(24, "new\n", "/var/log/syslog")
			fs.put(26, "mine\n", "/var/log/syslog.4")
			fs.put(27, "newer\n", "/var/log/old/syslog.1")
		}, []string{"added /var/log/syslog.4 [] []"}},
		"a program in the other place": {func(fs *files) {
			fs.objects[14].names = []string{"/var/log/old/syslog.2"}
			fs.put(24, "new\n", "/var/log/syslog")
			fs.put(26, "elf", "/var/log/old/syslog.1").Mode = 0o755
		}, []string{"added /var/log/old/syslog.1 [] [executable-out-of-place]"}},
		"another log's copy": {func(fs *files) {
			fs.put(14, "", "/var/log/syslog")
			fs.put(24, "line 1\n", "/var/log/old/auth.log.1")
		}, []string{"added /var/log/old/auth.log.1 [] []", truncated}},
		"one copy for two logs of one name": {func(fs *files) {
			fs.put(14, "", "/var/log/syslog")
			fs.put(24, "line 1\n", "/var/log/old/syslog.1", "/var/log/older/syslog.1")
		}, []string{"added /var/log/old/syslog.1 [] []", truncated}},
	} {
		t.Run(name, c.run)
	}
}

// However many files and logs of one name there are, looking for them has a bound.
func TestSearchIsBounded(t *testing.T) {
	m := newMovedLogs()
	for n := range 2 {
		m.follow("v", fmt.Sprintf("/var/log/%d/x", n), &prefix{size: 1, want: blake3.Sum256([]byte("x"))})
	}
	log := m.elsewhere[logPlace{"v", "", "x"}]
	for _, want := range []int{2, 0} {
		look := log.search("")
		look.goesOn(blake3.New(), 0, []byte("x"))
		if len(look.found) != want {
			t.Errorf("%d digests: %d found, want %d", m.sums.Load(), len(look.found), want)
		}
		m.sums.Store(maxSums)
	}
}
