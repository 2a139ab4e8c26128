package bin

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestReadFileIsBounded(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := os.WriteFile(path, []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	for limit, want := range map[int64]error{4: ErrTooLong, 5: nil, 6: nil} {
		data, err := ReadFile(path, limit)
		if !errors.Is(err, want) || (err == nil) != (string(data) == "12345") {
			t.Errorf("limit %d: %q, %v", limit, data, err)
		}
	}
	if _, err := ReadFile(filepath.Join(dir, "none"), 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if _, err := os.Stat("/dev/zero"); err == nil {
		if _, err := ReadFile("/dev/zero", 1<<20); !errors.Is(err, ErrTooLong) {
			t.Errorf("a device without an end: %v", err)
		}
	}
}
