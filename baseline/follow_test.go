package baseline

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// following is files of which those in inodes were touched since the last scan.
type following struct {
	*files
	inodes []uint64
}

func (f following) Touched() *filewatch.Touched {
	return &filewatch.Touched{Inodes: map[string][]uint64{f.volume: f.inodes}}
}

func (f following) ScanTouched(ctx context.Context, want func(*filewatch.Object, []string, bool, filewatch.Where) bool, visit PlacedVisitFunc) ([]filewatch.Gap, error) {
	part := newFiles()
	for _, n := range f.inodes {
		if o := f.objects[n]; o != nil {
			part.objects[n] = o
		}
	}
	return part.Scan(ctx, func(o *filewatch.Object, names []string) bool { return want(o, names, false, nil) },
		func(o *filewatch.Object, names []string, content io.Reader, damage error) error {
			return visit(o, names, nil, content, damage)
		})
}

// States that follow from each other, their changes kept beside the base or written
// to a new one, report and hold what captures of everything do.
func TestUpdatesFollowEachOther(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	k, fs := key(t), newFiles()
	change := func(inode uint64) {
		switch random.IntN(5) {
		case 0:
			delete(fs.objects, inode)
		case 1:
			fs.put(inode, strings.Repeat("content ", random.IntN(20)), fmt.Sprintf("/moved/%d", random.IntN(1000)*1000+int(inode)))
		case 2:
			fs.put(inode, "x", fmt.Sprintf("/usr/%d", inode)).damage = fmt.Errorf("damage %d", random.IntN(9))
		default:
			fs.put(inode, fmt.Sprint("content ", random.IntN(3)), fmt.Sprintf("/usr/%d", inode))
		}
	}
	for inode := uint64(10); inode < 600; inode++ {
		fs.put(inode, "content 0", fmt.Sprintf("/usr/%d", inode))
	}
	b := open(t, write(t, snapshot(t, fs, nil), k), k)
	dir := t.TempDir()
	if _, err := snapshot(t, fs, nil).Remember(dir, b, "", &Keep{Taken: epoch}); err != nil {
		t.Fatal(err)
	}
	bases := map[string]bool{}
	for round := range 30 {
		var touched []uint64
		for inode := uint64(10); inode < 620; inode++ {
			if random.IntN(40) == 0 {
				touched = append(touched, inode)
				if random.IntN(6) > 0 {
					change(inode)
				}
			}
		}
		last, err := OpenLast(dir, &b.Header, nil)
		if err != nil {
			t.Fatal(err)
		}
		last.fold = 8 << 10
		u, err := CaptureSince(t.Context(), following{fs, touched}, last, nil, &CaptureOptions{})
		if err != nil {
			t.Fatal(err)
		}
		now, err := u.Remember(&Keep{Taken: epoch.Add(time.Duration(round) * time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		bases[now.head.Base.Records.Name] = true
		all := snapshot(t, fs, nil)
		want, err := Compare(b, all)
		if err != nil {
			t.Fatal(err)
		}
		stored, err := now.Report(&b.Header, nil)
		if err != nil {
			t.Fatal(err)
		}
		direct, err := u.Report(&b.Header)
		if err != nil {
			t.Fatal(err)
		}
		for what, got := range map[string]*Report{"stored": stored, "direct": direct} {
			if d := cmp.Diff(want.Changes, got.Changes, cmp.AllowUnexported(Change{})); d != "" || got.Objects != want.Objects {
				t.Fatalf("round %d, %s: %d objects, want %d\n%s", round, what, got.Objects, want.Objects, d)
			}
		}
		var held []string
		if err := now.eachRecord(func(encoded []byte) error { held = append(held, string(encoded)); return nil }); err != nil {
			t.Fatal(err)
		}
		i := 0
		err = all.sorter.each(func(encoded []byte) error {
			if i >= len(held) || held[i] != string(encoded) {
				return fmt.Errorf("round %d: record %d differs", round, i)
			}
			i++
			return nil
		})
		if err != nil || i != len(held) {
			t.Fatalf("%d of %d records: %v", i, len(held), err)
		}
		u.Close()
	}
	if len(bases) < 3 || len(bases) > 25 {
		t.Errorf("%d bases in 30 rounds: changes are not both kept beside one and written to a new one", len(bases))
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 6 {
		t.Errorf("%d files are left, want 6: %v", len(files), err)
	}
}
