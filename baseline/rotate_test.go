package baseline

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// packed is a content as compresscmd makes it.
func packed(t testing.TB, ext, content string) string {
	t.Helper()
	var out bytes.Buffer
	var z io.WriteCloser
	var err error
	switch ext {
	case ".gz":
		z = gzip.NewWriter(&out)
	case ".zst":
		z, err = zstd.NewWriter(&out)
	case ".xz":
		z, err = xz.NewWriter(&out)
	case ".bz2": // bzip2(1) of "line 1\nlast\n", the only one here
		b, _ := hex.DecodeString(bz2Line)
		return string(b)
	default:
		t.Fatalf("packed with %q", ext)
	}
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(z, content)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

const bz2Line = "425a6839314159265359bf856fe0000004598000104000200022250c00200022003d2100309597c46b02f177245385090bf856fe00"

// older begins with what the log in use has.
const older = "line 1\nolder\n"

// logs is a tree with a log, which logrotate moved aside three times before.
func logs(t testing.TB) *files {
	fs := newFiles()
	fs.put(14, "line 1\n", "/var/log/syslog")
	fs.put(15, older, "/var/log/syslog.1")
	fs.put(16, packed(t, ".gz", "oldest\n"), "/var/log/syslog.2.gz")
	fs.put(17, "other\n", "/var/log/auth.log")
	return fs
}

// shift renames what logs has as logrotate does with "compress" and "delaycompress".
func shift(t testing.TB, fs *files) {
	fs.objects[16].names = []string{"/var/log/syslog.3.gz"}
	delete(fs.objects, 15)
	fs.put(25, packed(t, ".gz", older), "/var/log/syslog.2.gz")
}

const truncated = "changed /var/log/syslog [growing] [content-changed-times-kept log-truncated]"

// rotationCase is what becomes of logs, and what is to be told of it.
type rotationCase struct {
	change func(fs *files)
	want   []string
}

func (c rotationCase) run(t *testing.T) {
	before, now := logs(t), logs(t)
	c.change(now)
	if strings.HasSuffix(t.Name(), "without_generations") {
		before.setGeneration(0)
		now.setGeneration(0)
	}
	asked := rules(t, logRules)
	if diff := cmp.Diff(c.want, brief(check(t, before, now, asked))); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(c.want, brief(checkApart(t, before, now, asked))); diff != "" {
		t.Errorf("captured in one place, compared in another: %s", diff)
	}
}

// TestRotated has each way of logrotate to move a log aside, and what an attacker makes
// of it.
func TestRotated(t *testing.T) {
	for name, c := range map[string]rotationCase{
		"create, compress, delaycompress": {func(fs *files) {
			shift(t, fs)
			fs.put(14, "line 1\nlast\n", "/var/log/syslog.1")
			fs.put(24, "new\n", "/var/log/syslog")
		}, nil},
		"create, compress": {func(fs *files) {
			shift(t, fs)
			delete(fs.objects, 14)
			fs.put(24, packed(t, ".gz", "line 1\nlast\n"), "/var/log/syslog.1.gz")
			fs.put(14, "new\n", "/var/log/syslog").Generation = 8
		}, nil},
		"copytruncate": {func(fs *files) {
			fs.put(24, "line 1\nlast\n", "/var/log/syslog.4")
			fs.put(14, "", "/var/log/syslog")
		}, nil},
		"copytruncate, compress, delaycompress": {func(fs *files) {
			shift(t, fs)
			fs.put(24, "line 1\nlast\n", "/var/log/syslog.1")
			fs.put(14, "a longer new one\n", "/var/log/syslog")
		}, nil},
		"copytruncate, nothing written since the baseline": {func(fs *files) {
			fs.put(24, "line 1\n", "/var/log/syslog.4")
			fs.put(14, "new\n", "/var/log/syslog")
		}, nil},
		"xz": {func(fs *files) {
			fs.put(14, "", "/var/log/syslog")
			fs.put(24, packed(t, ".xz", "line 1\nlast\n"), "/var/log/syslog.4.xz")
		}, nil},
		"zstd": {func(fs *files) {
			fs.put(14, "", "/var/log/syslog")
			fs.put(24, packed(t, ".zst", "line 1\nlast\n"), "/var/log/syslog.4.zst")
		}, nil},
		"bzip2": {func(fs *files) {
			fs.put(14, "", "/var/log/syslog")
			fs.put(24, packed(t, ".bz2", ""), "/var/log/syslog.4.bz2")
		}, nil},
		"dateext, compress, three times": {func(fs *files) {
			delete(fs.objects, 14)
			fs.put(24, packed(t, ".gz", "line 1\nlast\n"), "/var/log/syslog-20260102.gz")
			fs.put(26, packed(t, ".gz", "new\n"), "/var/log/syslog-20260103.gz")
			fs.put(27, "newer\n", "/var/log/syslog-20260104")
			fs.put(28, "newest\n", "/var/log/syslog")
		}, nil},
		"three times": {func(fs *files) {
			fs.objects[16].names = []string{"/var/log/syslog.5.gz"}
			delete(fs.objects, 15)
			delete(fs.objects, 14)
			fs.put(25, packed(t, ".gz", older), "/var/log/syslog.4.gz")
			fs.put(24, packed(t, ".gz", "line 1\nlast\n"), "/var/log/syslog.3.gz")
			fs.put(26, packed(t, ".gz", "new\n"), "/var/log/syslog.2.gz")
			fs.put(27, "newer\n", "/var/log/syslog.1")
			fs.put(28, "newest\n", "/var/log/syslog")
		}, nil},
		"an inode number used again, without generations": {func(fs *files) {
			fs.put(15, "line 1\nlast\n", "/var/log/syslog.1")
			fs.put(24, packed(t, ".gz", older), "/var/log/syslog.3.gz")
			fs.put(14, "", "/var/log/syslog")
		}, nil},
		"the oldest deleted": {func(fs *files) { delete(fs.objects, 16) }, []string{"removed /var/log/syslog.2.gz [] []"}},

		"cut":              {func(fs *files) { fs.put(14, "", "/var/log/syslog") }, []string{truncated}},
		"an altered copy":  {func(fs *files) { fs.put(14, "", "/var/log/syslog"); fs.put(24, "LINE 1\nlast\n", "/var/log/syslog.4") }, []string{truncated, "added /var/log/syslog.4 [] []"}},
		"a shortened copy": {func(fs *files) { fs.put(14, "", "/var/log/syslog"); fs.put(24, "line 1", "/var/log/syslog.4") }, []string{truncated, "added /var/log/syslog.4 [] []"}},
		"an altered packed one": {func(fs *files) {
			fs.put(14, "", "/var/log/syslog")
			fs.put(24, packed(t, ".gz", "LINE 1\nlast\n"), "/var/log/syslog.4.gz")
		}, []string{truncated, "added /var/log/syslog.4.gz [] []"}},
		"a packed one cut off": {func(fs *files) {
			long := packed(t, ".gz", "line 1\nlast\n")
			fs.put(14, "", "/var/log/syslog")
			fs.put(24, long[:12], "/var/log/syslog.4.gz")
		}, []string{truncated, "added /var/log/syslog.4.gz [] []"}},
		"packed otherwise than it says": {func(fs *files) {
			fs.put(14, "", "/var/log/syslog")
			fs.put(24, packed(t, ".xz", "line 1\n"), "/var/log/syslog.4.gz")
		}, []string{truncated, "added /var/log/syslog.4.gz [] []"}},
		"a copy of another name": {func(fs *files) { fs.put(14, "", "/var/log/syslog"); fs.put(24, "line 1\n", "/var/log/auth.log.1") },
			[]string{"added /var/log/auth.log.1 [] []", truncated}},
		"a copy with another owner": {func(fs *files) {
			fs.put(14, "", "/var/log/syslog")
			fs.put(24, "line 1\n", "/var/log/syslog.4").UID = 1000
		},
			[]string{truncated, "added /var/log/syslog.4 [] []"}},
		"a setuid copy": {func(fs *files) {
			fs.put(14, "", "/var/log/syslog")
			fs.put(24, "line 1\n", "/var/log/syslog.4").Mode = 0o4755
		},
			[]string{truncated, "added /var/log/syslog.4 [] [setuid-added executable-out-of-place]"}},
		"a copy with a second name": {func(fs *files) {
			fs.put(14, "", "/var/log/syslog")
			fs.put(24, "line 1\n", "/var/log/syslog.4", "/var/log/x")
		}, []string{truncated, "added /var/log/syslog.4 [] []"}},
		"the truncated log given away": {func(fs *files) {
			fs.put(24, "line 1\n", "/var/log/syslog.4")
			fs.put(14, "", "/var/log/syslog").UID = 1000
		}, []string{"changed /var/log/syslog [uid] [content-changed-times-kept log-truncated]"}},
		"one copy for two that are gone": {func(fs *files) {
			delete(fs.objects, 14)
			delete(fs.objects, 15)
			fs.put(24, packed(t, ".gz", older), "/var/log/syslog.3.gz")
		}, []string{"removed /var/log/syslog [] []"}},
		"one that was moved on for one that is gone": {func(fs *files) {
			delete(fs.objects, 14)
			fs.objects[15].names = []string{"/var/log/syslog.3"}
		}, []string{"removed /var/log/syslog [] []"}},
		"a file beside a log that was not rotated": {func(fs *files) { fs.put(24, "mine\n", "/var/log/syslog.4") }, []string{"added /var/log/syslog.4 [] []"}},
		"a file older than what the log became": {func(fs *files) {
			fs.objects[14].names = []string{"/var/log/syslog.3"}
			fs.put(24, "new\n", "/var/log/syslog")
			fs.put(26, "mine\n", "/var/log/syslog.4")
		}, []string{"added /var/log/syslog.4 [] []"}},
		"a second name of a rotated log's successor": {func(fs *files) {
			fs.objects[14].names = []string{"/var/log/syslog.4"}
			fs.put(24, "new\n", "/var/log/syslog", "/var/log/x")
		}, []string{"added /var/log/syslog [] []"}},
		"a rotated log that cannot be read to its end": {func(fs *files) {
			fs.put(14, "line 1\nlast\n", "/var/log/syslog.4").Size = 100
			fs.put(24, "new\n", "/var/log/syslog")
		}, []string{"not-measured /var/log/syslog.4 [] []"}},
		"names that no rotation gives": {func(fs *files) {
			fs.objects[14].names = []string{"/var/log/syslog.5"}
			fs.put(24, "new\n", "/var/log/syslog")
			for n, name := range []string{".....0", "-_-.3", ".00", ".000.gz", ".03", "-.4"} {
				fs.put(30+uint64(n), "mine\n", "/var/log/syslog"+name)
			}
		}, []string{"added /var/log/syslog-.4 [] []", "added /var/log/syslog-_-.3 [] []", "added /var/log/syslog.....0 [] []",
			"added /var/log/syslog.00 [] []", "added /var/log/syslog.000.gz [] []", "added /var/log/syslog.03 [] []"}},
		"numbers from 0": {func(fs *files) {
			fs.objects[16].names = []string{"/var/log/syslog.3.gz"}
			fs.objects[15].names = []string{"/var/log/syslog.2"}
			fs.objects[14].names = []string{"/var/log/syslog.1"}
			fs.put(24, "new\n", "/var/log/syslog.0")
			fs.put(26, "newest\n", "/var/log/syslog")
		}, nil},
		"a program beside a rotated log": {func(fs *files) {
			fs.objects[14].names = []string{"/var/log/syslog.4"}
			fs.put(24, "new\n", "/var/log/syslog")
			fs.put(26, "elf", "/var/log/syslog.3").Mode = 0o755
		}, []string{"added /var/log/syslog.3 [] [executable-out-of-place]"}},
	} {
		t.Run(name, c.run)
	}
}

func (fs *files) setGeneration(n uint32) {
	for _, f := range fs.objects {
		f.Generation = n
	}
}
