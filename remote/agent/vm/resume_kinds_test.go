package vm

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/disk/disktest"
	"github.com/plumbline-sec/plumbline/filewatch/volume"
	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
)

// series are the states of one disk, in order: of XFS as a kernel left it between
// writes, of FAT as mtools do.
var series = map[string]func(t *testing.T, fn func(image []byte)){
	"xfs": func(t *testing.T, fn func(image []byte)) {
		volumetest.Pictures(t, "../../../filewatch/volume/xfs/testdata/small-blocks.series.zst", func(_ int, image []byte) { fn(image) })
	},
	"fat": fatSeries,
}

// fatSeries is of a FAT16 volume of 16 MiB with some of its files written anew, come
// and gone from state to state.
func fatSeries(t *testing.T, fn func(image []byte)) {
	t.Helper()
	dir := t.TempDir()
	image, local := filepath.Join(dir, "image"), filepath.Join(dir, "local")
	random, content := rand.New(rand.NewPCG(3, 4)), rand.NewChaCha8([32]byte{5})
	volumetest.Tool(t, "mkfs.vfat", "-i", "1234ABCD", "-F", "16", "-C", image, "16384")
	for d := range 4 {
		volumetest.Tool(t, "mmd", "-i", image, fmt.Sprintf("::/d%d", d))
	}
	write := func(file int) {
		b := make([]byte, 1+random.IntN(40_000))
		content.Read(b)
		if err := os.WriteFile(local, b, 0o600); err != nil {
			t.Fatal(err)
		}
		volumetest.Tool(t, "mcopy", "-o", "-i", image, local, fmt.Sprintf("::/d%d/a file with a long name %d", file%4, file))
	}
	for file := range 80 {
		write(file)
	}
	for state := range 5 {
		b, err := os.ReadFile(image)
		if err != nil {
			t.Fatal(err)
		}
		fn(b)
		for range 5 {
			write(random.IntN(80))
		}
		write(80 + state)
		volumetest.Tool(t, "mdel", "-i", image, fmt.Sprintf("::/d%d/a file with a long name %d", (80+state)%4, 80+state))
		write(90 + state)
	}
}

// resumedSeries has a machine go through the states of a disk; at each of them a
// scan is interrupted, and gone on with at the next one.
type resumedSeries struct {
	t       *testing.T
	random  *rand.Rand
	rules   *filewatch.Rules
	base    *baseline.Baseline
	m       *disktest.Machine
	image   string // what the disk is, for whoever scans all of it
	now     []byte
	rounds  int
	resumed int
	objects uint64
}

func (r *resumedSeries) state(image []byte) {
	t := r.t
	t.Helper()
	if r.m == nil {
		r.image = filepath.Join(t.TempDir(), "image")
		live := filepath.Join(t.TempDir(), "live")
		for _, path := range []string{r.image, live} {
			if err := os.WriteFile(path, image, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		r.base, r.now, r.m = captureOf(t, r.image, r.rules), image, disktest.Start(t, "raw:"+live)
		return
	}
	r.rounds++
	s := &Since{Place: Place{QMP: r.m.QMP}, Dir: t.TempDir(), Baseline: r.base, Rules: r.rules,
		Capture: baseline.CaptureOptions{Rules: r.rules}, Once: r.rounds%2 == 0, FullEvery: 1, Resume: progressKey}
	interrupted := interrupt(t, s, 30+r.random.Int64N(20))
	overwriteContents(t, image, r.random)
	r.m.Become(t, 0, r.now, image)
	r.now = image
	if err := os.WriteFile(r.image, image, 0o600); err != nil {
		t.Fatal(err)
	}
	report, how := check(t, s)
	if d := cmp.Diff(fully(t, r.image, r.base, r.rules), told(t, report)); d != "" {
		t.Fatalf("round %d: full scan against resumed:\n%s", r.rounds, d)
	}
	if !how.Full || how.Anew != "" || interrupted && (how.Resumed == nil || how.Resumed.Times != 1 || len(how.Resumed.Anew) > 0) {
		t.Errorf("round %d, interrupted %v: %+v, %+v", r.rounds, interrupted, how, how.Resumed)
	}
	if interrupted && how.Resumed != nil {
		r.resumed++
		r.objects += how.Resumed.Objects
	}
	t.Logf("round %d: interrupted %v, %+v, %d bytes read", r.rounds, interrupted, how.Resumed, how.Bytes)
	nothingLeft(t, r.m, s)
}

// overwriteContents changes a byte of the content of some files, and no metadata.
func overwriteContents(t *testing.T, image []byte, random *rand.Rand) {
	t.Helper()
	d, err := volume.Open(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	var at []int64
	err = d.Volumes[0].Objects(t.Context(), func(o *filewatch.Object, c filewatch.Content, _ error) error {
		for _, e := range c.Extents {
			if o.Type == filewatch.TypeFile && e.Physical >= 0 && e.Logical < o.Size {
				at = append(at, e.Physical)
			}
		}
		return nil
	})
	if err != nil || len(at) < 20 {
		t.Fatalf("%d contents: %v", len(at), err)
	}
	for range 10 {
		image[at[random.IntN(len(at))]] ^= 0xff
	}
}

// A scan of a running machine with XFS or FAT that is interrupted while the machine
// writes, past the file system too, reports what a scan of everything does, and
// takes over what nothing was written to.
func TestResumedScanOfXFSAndFAT(t *testing.T) {
	for name, each := range series {
		t.Run(name, func(t *testing.T) {
			seed := rand.Uint64()
			t.Logf("seed: %d", seed)
			r := resumedSeries{t: t, random: rand.New(rand.NewPCG(seed, 0)), rules: parsed(t)}
			each(t, r.state)
			if r.rounds < 3 || r.resumed < r.rounds-1 || r.objects < uint64(r.rounds) {
				t.Errorf("%d rounds, %d of them gone on with, %d contents taken over", r.rounds, r.resumed, r.objects)
			}
		})
	}
}
