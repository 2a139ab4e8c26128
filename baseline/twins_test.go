package baseline

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
)

// Digests computed two at a time reach the records they belong to, whatever
// sizes come in whatever order, with contents that cannot be read between them.
func TestTwinsMatchRecords(t *testing.T) {
	fs, k := newFiles(), key(t)
	asked := rules(t, shaRules)
	sizes := []int{0, 1, 55, 56, 64, 1000, 100_000, smallContent - 1, smallContent, smallContent + 1, 3 * smallContent}
	for i := range 3 * mostWaiting {
		content := strings.Repeat(fmt.Sprint(i), 1+i%40)
		if i%300 == 0 {
			content = strings.Repeat("x", sizes[i/300%len(sizes)]) + fmt.Sprint(i)
		}
		f := fs.put(uint64(i+1), content, fmt.Sprintf("/f%d", i))
		if i%7 == 3 { // shorter than it says
			f.Size += 5
		}
	}
	for _, r := range records(t, open(t, write(t, snapshot(t, fs, &CaptureOptions{Rules: asked}), k), k)) {
		want := Digest(sha256.Sum256([]byte(fs.objects[r.Inode].content)))
		if cut := r.Inode%7 == 4; cut && (r.Unread == "" || r.SHA256 != Digest{}) || !cut && (r.Unread != "" || r.SHA256 != want) {
			t.Fatalf("%s of %d bytes: %s, unread %q", r.Path(), r.Size, r.SHA256, r.Unread)
		}
	}
}
