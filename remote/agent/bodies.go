package agent

import (
	"os"
	"sync"
	"time"

	"github.com/plumbline-sec/plumbline/measure/check"
	"github.com/plumbline-sec/plumbline/remote"
)

// bodyLife is how long the pages of a scan are kept for the verifier to ask for.
// A verifier that comes later gets the next scan's.
const bodyLife = 10 * time.Minute

// bodyCache holds the bulk behind records until the verifier has had the chance
// to ask for it: the pages of the latest scan of each target, in memory because
// they are as secret as the target, and files such as manifests, by path.
type bodyCache struct {
	mu    sync.Mutex
	scans map[string]scanBodies // by target
	files map[remote.Digest]string
}

type scanBodies struct {
	pages check.Pages
	until time.Time
}

func newBodyCache() *bodyCache {
	return &bodyCache{scans: map[string]scanBodies{}, files: map[remote.Digest]string{}}
}

// keepScan holds the pages of a target's latest scan in place of those before.
func (c *bodyCache) keepScan(target string, pages check.Pages) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.scans[target] = scanBodies{pages: pages, until: time.Now().Add(bodyLife)}
}

// keepFile holds a body that is a file.
func (c *bodyCache) keepFile(digest remote.Digest, path string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.files[digest] = path
}

// get returns the body with a digest if it is still here.
func (c *bodyCache) get(digest remote.Digest) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if path, ok := c.files[digest]; ok {
		body, err := os.ReadFile(path)
		if err == nil && remote.DigestOf(body) == digest {
			return body, true
		}
		delete(c.files, digest)
	}
	for target, s := range c.scans {
		if time.Now().After(s.until) {
			delete(c.scans, target)
			continue
		}
		if page, ok := s.pages.Page(check.Digest(digest)); ok {
			return page, true
		}
	}
	return nil, false
}
