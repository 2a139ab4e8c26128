package baseline

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/zeebo/blake3"
)

// lastingFile is a content that can be read after its visit; torn is one that
// cannot be read to its end.
type lastingFile struct {
	io.Reader
	content string
	torn    bool
}

var errTorn = errors.New("torn")

func (l lastingFile) Lasting(buf []byte) func() ([]byte, error) {
	rest := strings.NewReader(l.content)
	return func() ([]byte, error) {
		n, err := rest.Read(buf[:min(len(buf), 100_003)])
		if l.torn && err == io.EOF {
			err = errTorn
		}
		return buf[:n], err
	}
}

// Digests computed side by side reach the records they belong to, whatever sizes
// come in whatever order, with contents that cannot be read between them, and
// with large ones that are read after their visit.
func TestDigestsSideBySideMatchRecords(t *testing.T) {
	sizes := []int{0, 1, 55, 56, 64, 1000, 30_000, smallContent - 1, smallContent, smallContent + 1, 3 * smallContent, 3*streamPiece + 7}
	for name, c := range map[string]struct{ rules string }{
		"SHA-256":            {shaRules},
		"SHA-256 and BLAKE3": {strings.Replace(shaRules, `"sha256"`, `"sha256", "content"`, 1)},
	} {
		t.Run(name, func(t *testing.T) {
			fs, k := newFiles(), key(t)
			asked := rules(t, c.rules)
			for i := range 3 * mostWaiting {
				content := strings.Repeat(fmt.Sprint(i), 1+i%40)
				if i%30 == 0 {
					content = strings.Repeat("x", sizes[i/30%len(sizes)]) + fmt.Sprint(i)
				}
				f := fs.put(uint64(i+1), content, fmt.Sprintf("/f%d", i))
				if f.lasting = i%60 == 0; !f.lasting && i%7 == 3 {
					f.Size += 5 // shorter than it says
				}
				f.torn = f.lasting && i%120 == 0 && len(content) > smallContent
			}
			streams := 0
			for _, r := range records(t, open(t, write(t, snapshot(t, fs, &CaptureOptions{Rules: asked}), k), k)) {
				f := fs.objects[r.Inode]
				content := []byte(f.content)
				bad := f.torn || f.Size > int64(len(content))
				want, wantBLAKE3 := Digest(sha256.Sum256(content)), Digest(blake3.Sum256(content))
				if bad {
					want = Digest{}
				}
				if bad || c.rules == shaRules {
					wantBLAKE3 = Digest{}
				}
				if (r.Unread != "") != bad || r.SHA256 != want || r.BLAKE3 != wantBLAKE3 {
					t.Fatalf("%s of %d bytes: %s and %s, unread %q", r.Path(), r.Size, r.SHA256, r.BLAKE3, r.Unread)
				}
				if f.lasting && r.Size > smallContent {
					streams++
				}
			}
			if streams < 16 {
				t.Fatalf("only %d large files", streams)
			}
		})
	}
}
