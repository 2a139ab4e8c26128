package kernel

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"

	"github.com/zeebo/blake3"
)

// imageCache keeps decompressed kernels on disk, because XZ takes over a
// second. An entry is named after the digest of the file it came from and
// starts with its own digest, so that a damaged one is noticed and made anew.
// It lies in the user's own cache: whoever can forge an entry there can also
// replace the program.
type imageCache struct{ dir string }

// DefaultCacheDir is where decompressed kernels are kept for this user:
// $XDG_CACHE_HOME/plumbline/kernels. It is empty where there is no such place.
func DefaultCacheDir() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "plumbline", "kernels")
}

// vmlinux decompresses a bzImage, or takes the result from the cache. A cache
// that cannot be written saves no time and does no harm.
func (c imageCache) vmlinux(file []byte) ([]byte, error) {
	key := blake3.Sum256(file)
	path := filepath.Join(c.dir, hex.EncodeToString(key[:])+".vmlinux")
	if c.dir != "" {
		if b, ok := readVerified(path); ok {
			return b, nil
		}
	}
	payload, size, err := bzImagePayload(file)
	if err != nil {
		return nil, err
	}
	out, err := decompress(payload, maxKernelFile)
	if err != nil {
		return nil, err
	}
	if uint32(len(out)) != size {
		return nil, fmt.Errorf("%w: payload gives %d bytes, %d were promised", ErrFormat, len(out), size)
	}
	if c.dir != "" {
		writeVerified(path, out)
	}
	return out, nil
}

func readVerified(path string) ([]byte, bool) {
	info, err := os.Stat(path)
	if err != nil || info.Size() > maxKernelFile+32 {
		return nil, false
	}
	b, err := os.ReadFile(path)
	if err != nil || len(b) < 32 {
		return nil, false
	}
	sum := blake3.Sum256(b[32:])
	return b[32:], bytes.Equal(sum[:], b[:32])
}

// writeVerified replaces path in one step, so that a reader sees all or nothing.
func writeVerified(path string, b []byte) {
	if os.MkdirAll(filepath.Dir(path), 0o700) != nil {
		return
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return
	}
	defer os.Remove(tmp.Name())
	sum := blake3.Sum256(b)
	_, err = tmp.Write(sum[:])
	if err == nil {
		_, err = tmp.Write(b)
	}
	if closeErr := tmp.Close(); err == nil && closeErr == nil {
		os.Rename(tmp.Name(), path)
	}
}
