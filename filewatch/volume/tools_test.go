package volume_test

import (
	"os"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
)

// What has no reader, as its own tools make it, is named as libblkid names it.
func TestRecognizesWhatToolsMake(t *testing.T) {
	list, err := os.ReadFile("testdata/recognized/blkid.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(list)) {
		f := append(strings.Fields(line), "")
		name, kind, uuid := f[0], f[1], f[2]
		t.Run(name, func(t *testing.T) {
			d, _ := volumetest.Open(t, volumetest.Unpack(t, "testdata/recognized/"+name+".img.zst"))
			if len(d.Volumes) != 1 {
				t.Fatalf("%d volumes", len(d.Volumes))
			}
			v := d.Volumes[0]
			if v.Type != kind || v.NotMeasured == "" {
				t.Errorf("type %q, not measured %q; blkid says %s", v.Type, v.NotMeasured, kind)
			}
			if len(uuid) == 36 && v.UUID != uuid { // RFC 9562; others have serial numbers
				t.Errorf("UUID %q, blkid says %s", v.UUID, uuid)
			}
		})
	}
}
