package vm

import (
	"io/fs"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch/disk"
)

// A scan of something whose writes nothing tells of says why it cannot be gone on
// with.
func TestWhatIsNoFileIsNotResumed(t *testing.T) {
	for mode, want := range map[fs.FileMode]string{
		fs.ModeDevice:                     "the kernel's count of writes leaves some out",
		fs.ModeDevice | fs.ModeCharDevice: "is not a file",
		fs.ModeNamedPipe:                  "is not a file",
	} {
		if err := untold("/dev/x", mode|0o600); !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "/dev/x") {
			t.Errorf("%v: %v", mode, err)
		}
	}
	o := &opened{set: &disk.Set{}}
	if _, ok := o.look("/dev/null"); ok || o.unsteady() == "" || len(o.images) > 0 {
		t.Errorf("of no file: %+v", o)
	}
}
