package volume

import (
	"bytes"
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// While contents are read the next batch is gathered, and no more than that: what is
// held is bounded however long a content takes.
func TestScanGathersOneBatchAhead(t *testing.T) {
	const objects, batch, workers, run = 20_000, 1024, 2, 256
	synctest.Test(t, func(t *testing.T) {
		r := &someReader{disk: bytes.NewReader(nil)}
		release, done := make(chan struct{}), make(chan error)
		var given, visited atomic.Int64
		go func() {
			done <- (&Volume{reader: r}).scan(t.Context(), &ScanOptions{Workers: workers, Batch: batch},
				func(*filewatch.Object, []string, *Content, error) error {
					<-release
					visited.Add(1)
					return nil
				},
				func(_ context.Context, fn ObjectFunc) error {
					for inode := range uint64(objects) {
						given.Add(1)
						if err := fn(&filewatch.Object{Inode: inode + 1, Type: filewatch.TypeFile}, filewatch.Content{}, nil); err != nil {
							return err
						}
					}
					return nil
				})
		}()
		synctest.Wait()
		if n := given.Load(); n <= 2*batch || n > 2*batch+2*workers*run {
			t.Errorf("%d objects are held, want two batches of %d and at most %d handed out", n, batch, 2*workers*run)
		}
		close(release)
		if err := <-done; err != nil || visited.Load() != objects {
			t.Errorf("%d of %d objects visited, %v", visited.Load(), objects, err)
		}
	})
}
