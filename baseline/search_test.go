package baseline

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/zeebo/blake3"
)

// What a log's many files cost each other: nothing where they are what they were, and
// otherwise one digest for each length.
func TestSearchCost(t *testing.T) {
	const count, lengths = 100, 10
	tree := func() *files {
		fs := newFiles()
		for n := range count {
			fs.put(uint64(n+10), fmt.Sprintf("%04d", n)+strings.Repeat("x", n%lengths), fmt.Sprintf("/var/log/syslog.%d", n+1))
		}
		return fs
	}
	asked := rules(t, logRules)
	k := key(t)
	b := open(t, write(t, snapshot(t, tree(), &CaptureOptions{Rules: asked}), k), k)
	sums := func(now *files) int64 {
		o := &CaptureOptions{Rules: asked}
		if err := o.Follow(b); err != nil {
			t.Fatal(err)
		}
		snapshot(t, now, o)
		return o.moved.sums.Load()
	}
	if n := sums(tree()); n != 0 {
		t.Errorf("%d digests for files that are what they were", n)
	}
	now := tree()
	for _, f := range now.objects {
		f.names[0] = strings.Replace(f.names[0], ".", ".1", 1)
	}
	if n := sums(now); n != 0 {
		t.Errorf("%d digests for files that were moved on", n)
	}
	want := int64(0)
	for _, f := range now.objects {
		f.Mtime = epoch.Add(time.Second)
		want += f.Size - 4 + 1
	}
	if n := sums(now); n != want {
		t.Errorf("%d digests for files that may be others, want %d", n, want)
	}
}

// However a content comes in pieces, what it begins with is found once.
func TestSearchInPieces(t *testing.T) {
	const content = "line 1\nline 2\nline 3\n"
	m := newMovedLogs()
	for n := 0; n <= len(content); n += 7 {
		for _, text := range []string{content[:n], strings.ToUpper(content[:n])} {
			m.follow("v", "/var/log/x", &prefix{size: int64(n), want: blake3.Sum256([]byte(text))})
		}
	}
	log := m.logs[logPlace{"v", "/var/log/", "x"}]
	for _, size := range []int{1, 3, 7, 10, 21, 30} {
		sum, look := blake3.New(), log.search("")
		read := 0
		for read < len(content) {
			piece := content[read:min(read+size, len(content))]
			look.goesOn(sum, int64(read), []byte(piece))
			sum.Write([]byte(piece))
			read += len(piece)
		}
		look.goesOn(sum, int64(read), nil)
		var got []int64
		for _, p := range look.found {
			got = append(got, p.size)
		}
		// "" is its own upper case.
		if want := []int64{0, 0, 7, 14, 21}; !slices.Equal(got, want) {
			t.Errorf("pieces of %d: %v, want %v", size, got, want)
		}
	}
}
