package guest

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
)

// What kernels made of XFS volumes that were written to hard: copied while mounted,
// after power went and after an unmount, so that logs come, are replayed and go. An
// incremental scan says what a whole one says, from each copy to the next and back,
// and where a content was overwritten under its metadata.
func TestFollowingXFS(t *testing.T) {
	for _, name := range []string{"small-blocks", "v4"} {
		t.Run(name, func(t *testing.T) {
			seed := rand.Uint64()
			t.Logf("seed of the changes: %d", seed)
			f := follower{t: t, random: rand.New(rand.NewPCG(seed, 0)), replayed: map[bool]int{}}
			volumetest.Pictures(t, "../volume/xfs/testdata/"+name+".series.zst", f.picture)
			if f.replayed[false] == 0 || f.replayed[true] == 0 {
				t.Errorf("%d pictures have a log to replay, %d have none", f.replayed[true], f.replayed[false])
			}
		})
	}
}

// follower goes through pictures of one volume.
type follower struct {
	t        *testing.T
	random   *rand.Rand
	last     *seer
	replayed map[bool]int
}

func (f *follower) picture(round int, image []byte) {
	f.replayed[openGuest(f.t, image).Mounts[0].Volume.Replayed != ""]++
	want := whole(f.t, image)
	if f.last == nil {
		f.last = want
		return
	}
	granularity := []int{1024, 4096, 65536}[round%3]
	follows(f.t, f.last, want, granularity)
	follows(f.t, want, f.last, granularity)
	over := bytes.Clone(image)
	overwrite(f.t, over, f.random)
	overwritten := whole(f.t, over)
	if cmp.Equal(overwritten.now, want.now) {
		f.t.Errorf("round %d: a whole scan does not see what was overwritten", round)
	}
	if next := follows(f.t, want, overwritten, 1024); next.hashed == 0 || next.hashed > len(next.now)/4 {
		f.t.Errorf("round %d: one content was overwritten, %d of %d objects were read", round, next.hashed, len(next.now))
	}
	f.last = follows(f.t, f.last, overwritten, granularity)
}

// follows compares an incremental scan with a whole one.
func follows(t *testing.T, was, want *seer, granularity int) *seer {
	t.Helper()
	next, unfollowed := was.next(t, want.image, granularity)
	for _, u := range unfollowed {
		t.Errorf("scanned whole: %s", u.Reason)
	}
	if d := cmp.Diff(want.now, next.now); d != "" {
		t.Fatalf("whole scan against incremental:\n%s", d)
	}
	return next
}
