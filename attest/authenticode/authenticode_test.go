package authenticode_test

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/plumbline-sec/plumbline/attest/authenticode"
)

// Offsets in the image that newImage makes.
const (
	headerSize = 0x400
	optional   = 0x80 + 24
	checksum   = optional + 64
	certDir    = optional + 112 + 4*8
)

// newImage makes a PE32+ image of two sections, as small as the format lets it be.
func newImage() []byte {
	image := make([]byte, headerSize+0x600)
	put16 := func(at int, v uint16) { binary.LittleEndian.PutUint16(image[at:], v) }
	put32 := func(at int, v uint32) { binary.LittleEndian.PutUint32(image[at:], v) }
	copy(image, "MZ")
	put32(0x3c, 0x80)
	copy(image[0x80:], "PE\x00\x00")
	put16(0x80+4+2, 2)               // sections
	put16(0x80+4+16, 112+16*8)       // size of the optional header
	put16(optional, 0x20b)           // PE32+
	put32(optional+60, headerSize)   // SizeOfHeaders
	put32(checksum, 0xdeadbeef)      // CheckSum
	put32(optional+108, 16)          // NumberOfRvaAndSizes
	section := optional + 112 + 16*8 // section table
	copy(image[section:], ".second") // listed first, lies second
	put32(section+8, 0x10)
	put32(section+16, 0x200)
	put32(section+20, headerSize+0x400)
	copy(image[section+40:], ".linux")
	put32(section+40+8, 5)
	put32(section+40+16, 0x400)
	put32(section+40+20, headerSize)
	copy(image[headerSize:], "hello, kernel")
	copy(image[headerSize+0x400:], "second")
	return image
}

// sign appends a certificate table and points the data directory at it.
func sign(image []byte, signature []byte) []byte {
	out := append(bytes.Clone(image), signature...)
	binary.LittleEndian.PutUint32(out[certDir:], uint32(len(image)))
	binary.LittleEndian.PutUint32(out[certDir+4:], uint32(len(signature)))
	return out
}

func digest(t *testing.T, data []byte) []byte {
	t.Helper()
	image, err := authenticode.New(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	sum, err := image.Digest(crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

func TestDigest(t *testing.T) {
	image := newImage()
	h := sha256.New()
	h.Write(image[:checksum])
	h.Write(image[checksum+4 : certDir])
	h.Write(image[certDir+8:])
	want := h.Sum(nil)
	if got := digest(t, image); !bytes.Equal(got, want) {
		t.Errorf("digest %x, want %x", got, want)
	}
	if got := digest(t, sign(image, make([]byte, 64))); !bytes.Equal(got, want) {
		t.Error("signing changes the digest")
	}
	summed := bytes.Clone(image)
	summed[checksum]++
	if got := digest(t, summed); !bytes.Equal(got, want) {
		t.Error("the checksum changes the digest")
	}
	for _, at := range []int{0x10, headerSize, headerSize + 0x3ff, headerSize + 0x400, len(image) - 1} {
		changed := bytes.Clone(image)
		changed[at]++
		if got := digest(t, changed); bytes.Equal(got, want) {
			t.Errorf("a change at %#x does not change the digest", at)
		}
	}
	if got := digest(t, append(bytes.Clone(image), "appended"...)); bytes.Equal(got, want) {
		t.Error("data after the sections does not change the digest")
	}
}

func TestContent(t *testing.T) {
	data := newImage()
	image, err := authenticode.New(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{".linux": "hello", ".absent": ""} {
		if got, err := image.Content(name, 1<<20); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v, want %q", name, got, err, want)
		}
	}
	if got, err := image.Content(".linux", 2); err != nil || string(got) != "he" {
		t.Errorf("limited: %q, %v", got, err)
	}
}

func TestRefuses(t *testing.T) {
	edit := func(at int, v uint32) []byte {
		image := newImage()
		binary.LittleEndian.PutUint32(image[at:], v)
		return image
	}
	for name, data := range map[string][]byte{
		"empty":                      nil,
		"no MZ":                      edit(0, 0),
		"PE header past the end":     edit(0x3c, 0xfffffff0),
		"no PE signature":            edit(0x80, 0),
		"unknown optional header":    edit(optional, 0x107),
		"headers larger than file":   edit(optional+60, 0xffffffff),
		"headers within themselves":  edit(optional+60, 16),
		"section past the end":       edit(optional+112+16*8+20, 0xfffffff0),
		"signatures larger than all": edit(certDir+4, 0xfffffff0),
		"cut":                        newImage()[:0x90],
	} {
		if _, err := authenticode.New(bytes.NewReader(data), int64(len(data))); !errors.Is(err, authenticode.ErrFormat) {
			t.Errorf("%s: %v, want ErrFormat", name, err)
		}
	}
}

// FuzzNew: an image or an error; an image has a digest and its sections lie in
// the file.
func FuzzNew(f *testing.F) {
	f.Add(newImage())
	f.Add(sign(newImage(), make([]byte, 64)))
	f.Fuzz(func(t *testing.T, data []byte) {
		image, err := authenticode.New(bytes.NewReader(data), int64(len(data)))
		if (image == nil) == (err == nil) {
			t.Fatalf("both or neither: %v, %v", image, err)
		}
		if err != nil {
			return
		}
		if _, err := image.Digest(crypto.SHA256); err != nil {
			t.Fatalf("digest: %v", err)
		}
		for _, s := range image.Sections {
			if _, err := image.Content(s.Name, 1<<20); err != nil {
				t.Fatalf("content of %q: %v", s.Name, err)
			}
		}
	})
}
