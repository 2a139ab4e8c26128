package baseline

import (
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// Two records of a baseline have one identity: what was found of one content says
// nothing of the other.
func TestPrefixesOfOneIdentity(t *testing.T) {
	record := func(size int64, digest byte) *Record {
		return &Record{Object: filewatch.Object{Volume: "v", Inode: 271, Type: filewatch.TypeFile, Size: size}, BLAKE3: Digest{digest}}
	}
	gone, here, other := record(10050, 1), record(1385, 2), record(1385, 3)
	for name, order := range map[string][]*Record{"the one that is here last": {gone, here}, "first": {here, gone}} {
		t.Run(name, func(t *testing.T) {
			known := prefixes{}
			for _, r := range order {
				known.add(r.ID(), r.Size, r.BLAKE3)
			}
			if first := known[gone.ID()]; first.allKept() || known.add(here.ID(), here.Size, here.BLAKE3) != known.of(here) {
				t.Error("kept before it was looked at, or added twice")
			}
			known.of(here).kept = true
			c := &comparer{prefixes: known}
			now := record(20000, 4)
			if got := c.prefix(here, now); got != PrefixKept {
				t.Errorf("of the file that is here: %v", got)
			}
			if got := c.prefix(gone, now); got != PrefixGone {
				t.Errorf("of the file that is gone: %v", got)
			}
			if known.of(other) != nil || known[gone.ID()].allKept() {
				t.Error("a content that nobody asked for, or all kept")
			}
		})
	}
}
