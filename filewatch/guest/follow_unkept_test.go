package guest

import (
	"io"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
)

// A copy of a template is followed and nothing is kept of that: a volume that cannot
// be followed is scanned whole all the same.
func TestWholeVolumesOfWhatIsNotKept(t *testing.T) {
	image := mustRead(t, volumetest.NewChanges(t, "-t", "ext4").Image)
	s := whole(t, image)
	g := openGuest(t, image)
	f, err := g.Follow(t.Context(), s.memory, nil, nil) // of no disk it is known what changed
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Touched().Whole) != 1 {
		t.Fatalf("not whole: %+v", f.Touched())
	}
	seen := 0
	_, err = f.ScanTouched(t.Context(), func(*filewatch.Object, []string, bool, filewatch.Where) bool { return true },
		func(*filewatch.Object, []string, filewatch.Where, io.Reader, error) error { seen++; return nil })
	if err != nil || seen != len(s.now) {
		t.Errorf("%d objects of %d: %v", seen, len(s.now), err)
	}
}
