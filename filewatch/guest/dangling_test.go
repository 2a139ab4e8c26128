package guest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
)

// A file that its volume disowns, while its name leads to it, is told: by a whole scan
// and by one that follows from a scan before.
func TestDetectsDisownedFiles(t *testing.T) {
	plain := image(t, rootID, 4<<20, map[string]string{"bin/a": "a", "bin/hidden": "hidden", "bin/z": "z"})
	before, err := os.ReadFile(plain.Name())
	if err != nil {
		t.Fatal(err)
	}
	was := whole(t, before)
	for k, text := range was.now {
		if strings.HasPrefix(k, "gap ") {
			t.Fatalf("benign twin: %s: %s", k, text)
		}
	}
	_, stat, _ := strings.Cut(volumetest.Tool(t, "debugfs", "-R", "stat /bin/hidden", plain.Name()), "Inode: ")
	var inode int
	fmt.Sscan(stat, &inode)
	for name, command := range map[string]string{
		"as a quota's inode": fmt.Sprintf("ssv usr_quota_inum %d", inode),
		"as having no links": fmt.Sprintf("sif <%d> links_count 0", inode),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "img")
			if err := os.WriteFile(path, before, 0o600); err != nil {
				t.Fatal(err)
			}
			volumetest.Tool(t, "debugfs", "-w", "-R", command, path)
			after, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			want := whole(t, after)
			if reason := want.now["gap /bin: hidden"]; !strings.Contains(reason, fmt.Sprintf("inode %d", inode)) {
				t.Errorf("state %v", want.now)
			}
			next, _ := was.next(t, after, 1024)
			if d := cmp.Diff(want.now, next.now); d != "" {
				t.Errorf("whole scan against incremental:\n%s", d)
			}
			next, _ = want.next(t, after, 1024)
			if d := cmp.Diff(want.now, next.now); d != "" {
				t.Errorf("and the next one:\n%s", d)
			}
		})
	}
}
