package guest

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume"
	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
	"github.com/plumbline-sec/plumbline/internal/sorted"
)

// state is all that scans tell about a guest, by volume and inode.
type state map[string]string

// seer keeps a state as whoever scans does: digests of content that certainly is
// what it was are taken over.
type seer struct {
	now    state
	sums   map[string][32]byte
	memory *Memory
	image  []byte
	cuts   []int
	dir    string
	hashed int
}

func key(o *filewatch.Object) string { return fmt.Sprintf("%s/%d", o.Volume, o.Inode) }

// disks are what an image is of: several disks, which begin at its start and at each
// of the cuts.
func disks(image []byte, cuts []int) (out [][]byte) {
	last := 0
	for _, cut := range append(slices.Clone(cuts), len(image)) {
		out = append(out, image[last:cut])
		last = cut
	}
	return out
}

func openGuest(t *testing.T, image []byte, cuts ...int) *Guest {
	t.Helper()
	var sources []volume.Source
	for _, disk := range disks(image, cuts) {
		sources = append(sources, volume.Source{Disk: bytes.NewReader(disk), Size: int64(len(disk))})
	}
	d, err := volume.OpenAll(sources)
	if err != nil {
		t.Fatal(err)
	}
	g, err := New(d)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// visitor fills a seer; reuse says which digests are kept.
func (s *seer) visitor(reuse *sync.Map) func(*filewatch.Object, []string, io.Reader, error) error {
	var mu sync.Mutex
	return func(o *filewatch.Object, names []string, content io.Reader, damage error) error {
		mu.Lock()
		defer mu.Unlock()
		k := key(o)
		var sum [32]byte
		if content != nil {
			h := blake3.New()
			if _, err := io.Copy(h, content); err != nil {
				damage = err
			}
			h.Sum(sum[:0])
			s.hashed++
		} else if _, ok := reuse.Load(k); ok {
			sum = s.sums[k]
		}
		if delete(s.sums, k); damage == nil && o.Type == filewatch.TypeFile { // else nothing is known of a content
			s.sums[k] = sum
		}
		shown := *o
		shown.Atime, shown.Crtime = shown.Ctime, shown.Ctime // not part of a record
		s.now[k] = fmt.Sprintf("%+v %q %x %v", shown, names, sum, damage)
		return nil
	}
}

func whole(t *testing.T, image []byte, cuts ...int) *seer {
	t.Helper()
	g := openGuest(t, image, cuts...)
	s := &seer{now: state{}, sums: map[string][32]byte{}, image: image, cuts: cuts, dir: t.TempDir()}
	g.Remember = sorted.Dir(s.dir)
	gaps, err := g.Scan(t.Context(), func(*filewatch.Object, []string) bool { return true }, s.visitor(&sync.Map{}))
	if err != nil {
		t.Fatal(err)
	}
	for _, gap := range gaps {
		s.now["gap "+gap.What] = gap.Reason
	}
	s.memory = g.Memory()
	return s
}

// dirty are the pieces of granularity bytes that differ, as a bitmap has them.
func dirty(old, new []byte, granularity int) []filewatch.Extent {
	var out []filewatch.Extent
	for at := 0; at < len(new); at += granularity {
		end := min(at+granularity, len(new))
		if !bytes.Equal(old[at:end], new[at:end]) {
			out = append(out, filewatch.Extent{Physical: int64(at), Length: int64(end - at)})
		}
	}
	return volume.Merge(out)
}

// next is what follows from the last scan; whole says why that was not possible.
func (s *seer) next(t *testing.T, image []byte, granularity int) (out *seer, whole []filewatch.Gap) {
	t.Helper()
	s.memory.fold = 20 // so that some rounds write new bases
	encoded, _, err := s.memory.Keep()
	if err != nil {
		t.Fatal(err)
	}
	memory, err := ParseMemory(s.dir, encoded)
	if err != nil {
		t.Fatal(err)
	}
	var again []filewatch.ID
	for k, text := range s.now {
		if !strings.HasSuffix(text, "<nil>") && !strings.HasPrefix(k, "gap ") {
			var id filewatch.ID
			id.Volume, _, _ = strings.Cut(k, "/")
			fmt.Sscan(k[len(id.Volume)+1:], &id.Inode)
			again = append(again, id)
		}
	}
	g := openGuest(t, image, s.cuts...)
	g.Remember = sorted.Dir(s.dir)
	changed, was := map[int][]filewatch.Extent{}, disks(s.image, s.cuts)
	for i, disk := range disks(image, s.cuts) {
		changed[i] = dirty(was[i], disk, granularity)
	}
	f, err := g.Follow(t.Context(), memory, changed, again)
	if err != nil {
		t.Fatal(err)
	}
	out = &seer{now: state{}, sums: map[string][32]byte{}, image: image, cuts: s.cuts, dir: s.dir}
	for k, text := range s.now {
		if !strings.HasPrefix(k, "gap ") {
			out.now[k] = text
		}
	}
	for k, sum := range s.sums {
		if _, kept := out.now[k]; kept {
			out.sums[k] = sum
		}
	}
	for _, v := range f.Touched().Whole {
		for k := range out.now {
			if strings.HasPrefix(k, v.Volume+"/") {
				delete(out.now, k)
			}
		}
	}
	for id, inodes := range f.Touched().Inodes {
		for _, n := range inodes {
			delete(out.now, fmt.Sprintf("%s/%d", id, n))
		}
	}
	var reuse sync.Map
	visit := out.visitor(&reuse)
	gaps, err := f.ScanTouched(t.Context(), func(o *filewatch.Object, _ []string, same bool, _ filewatch.Where) bool {
		if _, known := s.sums[key(o)]; same && known {
			reuse.Store(key(o), true)
			return false
		}
		return true
	}, func(o *filewatch.Object, names []string, _ filewatch.Where, content io.Reader, damage error) error {
		return visit(o, names, content, damage)
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, gap := range gaps {
		out.now["gap "+gap.What] = gap.Reason
	}
	out.memory = g.Memory()
	return out, f.Touched().Whole
}

// An incremental scan says exactly what a whole scan of the same image says,
// after any series of changes and at any granularity of the bitmap.
func TestFollowingIsLikeScanning(t *testing.T) {
	for name, options := range map[string][]string{
		"plain":  {"-t", "ext4", "-O", "^has_journal"},
		"inline": {"-t", "ext4", "-O", "inline_data,^has_journal", "-I", "256", "-b", "1024"},
		"ext3":   {"-t", "ext3"},
		"groups": {"-t", "ext4", "-O", "ea_inode,bigalloc", "-g", "8192", "-C", "8192", "-b", "1024"},
	} {
		t.Run(name, func(t *testing.T) { followImage(t, options) })
	}
}

func followImage(t *testing.T, options []string) {
	c := volumetest.NewChanges(t, options...)
	s := whole(t, mustRead(t, c.Image))
	total := len(s.now)
	for round := range 12 {
		c.Change(t)
		now := mustRead(t, c.Image)
		overwrite(t, now, c.Random)
		if err := os.WriteFile(c.Image, now, 0o600); err != nil {
			t.Fatal(err)
		}
		granularity := []int{1024, 4096, 65536}[round%3]
		next, unfollowed := s.next(t, now, granularity)
		for _, u := range unfollowed {
			t.Fatalf("round %d: scanned whole: %s", round, u.Reason)
		}
		want := whole(t, now)
		if d := cmp.Diff(want.now, next.now); d != "" {
			t.Fatalf("round %d: whole scan against incremental:\n%s", round, d)
		}
		if granularity == 1024 && next.hashed > total*3/4 {
			t.Errorf("round %d: %d of %d contents were read", round, next.hashed, total)
		}
		s = next
	}
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// overwrite changes a byte of one file's content where it lies, and nothing else:
// what the file system's metadata say stays true.
func overwrite(t *testing.T, image []byte, r *rand.Rand) {
	t.Helper()
	var places []int64
	g := openGuest(t, image)
	err := g.Mounts[0].Volume.Objects(t.Context(), func(o *filewatch.Object, c filewatch.Content, _ error) error {
		if o.Type == filewatch.TypeFile && o.Size > 0 && len(c.Extents) > 0 && c.Extents[0].Physical >= 0 && c.Extents[0].Logical == 0 {
			places = append(places, c.Extents[0].Physical)
		}
		return nil
	})
	if err != nil || len(places) == 0 {
		t.Fatalf("no file has blocks, %v", err)
	}
	image[places[r.IntN(len(places))]] ^= 0x55
}

// fsck replays an image's journal.
func fsck(t *testing.T, image string) {
	t.Helper()
	cmd := exec.Command("e2fsck", "-fy", image) // exits 1 for what it did
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := cmd.CombinedOutput(); err != nil && cmd.ProcessState.ExitCode() != 1 {
		t.Fatalf("e2fsck: %v\n%s", err, out)
	}
}

// What a journal and fast commits hold counts as what they will make of the disk:
// between an image whose log was not replayed and the same one after e2fsck has
// replayed it or it was lost, in both directions.
func TestFollowingAcrossReplay(t *testing.T) {
	for _, name := range []string{"ext3", "data-journal", "fast", "checksum-v1", "plain"} {
		t.Run(name, func(t *testing.T) {
			image := volumetest.Unpack(t, "../volume/ext4/testdata/"+name+".img.zst")
			dirty := mustRead(t, image)
			if name == "fast" { // e2fsck 1.47.0 damages it; without its log it is older
				volumetest.Tool(t, "debugfs", "-w", "-R", "feature ^needs_recovery", image)
			} else {
				fsck(t, image)
			}
			clean := mustRead(t, image)
			if name != "plain" && bytes.Equal(clean, dirty) {
				t.Fatal("there was nothing to replay")
			}
			pairs := map[string][2][]byte{"to clean": {dirty, clean}, "to dirty": {clean, dirty}}
			if name == "fast" {
				lost := bytes.Clone(dirty)
				// Tag 9 (head), 8 bytes, no features (fs/ext4/fast_commit.h): without
				// it the fast commits are none, and the log before them is.
				at := blockWith(t, lost, []byte{9, 0, 8, 0, 0, 0, 0, 0})
				lost[at] = 0
				pairs["to fast commits"], pairs["to none"] = [2][]byte{lost, dirty}, [2][]byte{dirty, lost}
			}
			for what, pair := range pairs {
				now, unfollowed := whole(t, pair[0]).next(t, pair[1], 4096)
				for _, u := range unfollowed {
					t.Errorf("%s: scanned whole: %s", what, u.Reason)
				}
				if d := cmp.Diff(whole(t, pair[1]).now, now.now); d != "" {
					t.Errorf("%s: whole scan against incremental:\n%s", what, d)
				}
			}
		})
	}
}

// blockWith finds the first block that begins so.
func blockWith(t *testing.T, image, begin []byte) int {
	t.Helper()
	for at := 0; at < len(image); at += 1024 {
		if bytes.HasPrefix(image[at:], begin) {
			return at
		}
	}
	t.Fatal("no such block")
	return 0
}
