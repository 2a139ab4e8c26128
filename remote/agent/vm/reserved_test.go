package vm

import (
	"errors"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
)

func TestWaitsForReservedSpace(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	file := &filewatch.Object{Inode: 12, Size: 13, Ctime: now}
	written := filewatch.Content{Extents: []filewatch.Extent{{Logical: 0, Physical: 4096, Length: 4096}, {Logical: 4096, Physical: -1, Length: 4096}}}
	ahead := filewatch.Content{Extents: []filewatch.Extent{{Logical: 0, Physical: -1, Length: 4096}}}
	var r reserved
	if err := r.check(file, written, now); err != nil {
		t.Errorf("space behind the end: %v", err)
	}
	for _, after := range []time.Duration{0, time.Second, reservedPatience - 1} {
		if err := r.check(file, ahead, now.Add(after)); !errors.Is(err, errReserved) {
			t.Errorf("after %v: %v", after, err)
		}
	}
	if err := r.check(file, ahead, now.Add(reservedPatience)); err != nil {
		t.Errorf("space that stays: %v", err)
	}
	later := *file
	later.Ctime = now.Add(reservedPatience)
	if err := r.check(&later, ahead, now.Add(reservedPatience)); !errors.Is(err, errReserved) {
		t.Errorf("after another change: %v", err)
	}
	if err := r.check(file, written, now.Add(time.Hour)); err != nil || len(r) != 0 {
		t.Errorf("an hour later %d are remembered, %v", len(r), err)
	}
}
