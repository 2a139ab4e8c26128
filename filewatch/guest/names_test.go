package guest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// However a volume numbers its inodes, entries come in the order of inodes,
// directories and names, each once.
func TestNamesInOrder(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for what, inode := range map[string]func(i int) uint64{
		"none":     nil,
		"dense":    func(i int) uint64 { return uint64(i/2 + 11) },
		"sparse":   func(int) uint64 { return random.Uint64N(maxInode + 1) },
		"one":      func(int) uint64 { return 7 },
		"far away": func(i int) uint64 { return []uint64{1, maxInode}[i%2] },
		"groups":   func(i int) uint64 { return uint64(i%8)<<40 + uint64(i/8) },
	} {
		t.Run(what, func(t *testing.T) {
			n := newNames(2, "/")
			count := 0
			for i := 0; inode != nil && i < 3*chunkLen/2; i++ {
				entry := filewatch.Name{Inode: inode(i), Parent: random.Uint64N(4), Name: fmt.Appendf(nil, "%d", random.IntN(1<<20))}
				if err := n.add(entry); err != nil {
					t.Fatal(err)
				}
				count++
			}
			n.sort()
			if len(n.entries) != count {
				t.Errorf("%d entries of %d", len(n.entries), count)
			}
			if !slices.IsSortedFunc(n.entries, n.compare) {
				t.Error("not in order")
			}
		})
	}
}
