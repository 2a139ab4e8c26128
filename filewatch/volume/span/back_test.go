package span_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume/span"
)

// pile is a device in pieces of two disks of 64 bytes, the first and the last plain,
// the middle one in stripes of 4 bytes over both.
func pile(t *testing.T, from int64) *span.Device {
	t.Helper()
	var disks []*span.Device
	for i := range 2 {
		disks = append(disks, span.OnDisk(i, bytes.NewReader(make([]byte, 64)), 0, 64))
	}
	stripes, err := span.NewStripes([]*span.Device{span.Section(disks[0], from, 16), span.Section(disks[1], 20, 16)}, 4)
	if err != nil {
		t.Fatal(err)
	}
	d, err := span.New([]span.Piece{
		{Length: 9, From: 40, Below: disks[1]},
		{Start: 9, Length: 30, From: 1, Below: stripes},
		{Start: 39, Length: 11, From: 50, Below: disks[0]},
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Whatever changes on the disks, the bytes that Back names are those that Map finds
// there.
func TestBackIsTheOtherWayRoundOfMap(t *testing.T) {
	d := pile(t, 8)
	var where [2][64]int64 // what of the device lies there, plus one
	for at := range d.Size() {
		e := d.Map(at, 1)[0]
		disk := 0
		if at < 9 || at < 39 && (at-9+1)/4%2 == 1 { // of the middle one the second byte is the first
			disk = 1
		}
		where[disk][e.Physical] = at + 1
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		changed := map[int][]filewatch.Extent{}
		want := map[int64]bool{}
		for disk := range 2 {
			changed[disk] = nil
			for at := int64(r.IntN(9)); at < 64; at += 2 + int64(r.IntN(30)) {
				e := filewatch.Extent{Physical: at, Length: min(1+int64(r.IntN(9)), 64-at)}
				changed[disk] = append(changed[disk], e)
				for i := range e.Length {
					if n := where[disk][at+i]; n > 0 {
						want[n-1] = true
					}
				}
				at += e.Length
			}
		}
		got := map[int64]bool{}
		if err := d.Back(changed, func(at, length int64) error {
			for i := range length {
				got[at+i] = true
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%v (-map +back):\n%s", changed, diff)
		}
	}
	if err := d.Back(map[int][]filewatch.Extent{0: nil}, nil); !errors.Is(err, span.ErrUnknown) {
		t.Errorf("one of two disks is known: %v", err)
	}
}

// Devices that lie elsewhere have other layouts.
func TestLayout(t *testing.T) {
	layout := func(d *span.Device) string {
		var b strings.Builder
		d.Layout(&b)
		return b.String()
	}
	if a, b := layout(pile(t, 8)), layout(pile(t, 8)); a != b {
		t.Errorf("the same place has the layouts\n%s\n%s", a, b)
	}
	seen := map[string]bool{layout(pile(t, 8)): true, layout(pile(t, 12)): true}
	for disk := range 2 {
		for _, from := range []int64{0, 8} {
			seen[layout(span.OnDisk(disk, nil, from, 16))] = true
		}
	}
	if len(seen) != 6 {
		t.Errorf("6 places have %d layouts", len(seen))
	}
}

// Runs are joined where one goes on with another; a striped device has its legs'.
func TestRuns(t *testing.T) {
	disk := span.OnDisk(0, nil, 100, 50)
	joined, err := span.New([]span.Piece{
		{Start: 0, Length: 10, Below: disk, From: 0}, {Start: 10, Length: 5, Below: disk, From: 10}, {Start: 15, Length: 5, Below: disk, From: 40}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := joined.Runs(), []filewatch.Run{{Offset: 100, Length: 15}, {Offset: 140, Length: 5}}; !slices.Equal(got, want) {
		t.Errorf("runs %v, want %v", got, want)
	}
	if a, b := pile(t, 8).Runs(), pile(t, 12).Runs(); slices.Equal(a, b) || !slices.Equal(a, pile(t, 8).Runs()) {
		t.Errorf("two places have the runs %v and %v", a, b)
	}
}
