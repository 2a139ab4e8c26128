package disk

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// headSize is how much of an image's beginning is looked at.
const headSize = 64 << 10

// ErrAmbiguous: an image begins like one of a format, and like a disk.
var ErrAmbiguous = errors.New("it begins like an image of a format, and like a disk with partitions or a file system: it may be raw, and its guest have written that")

// headOf reads the beginning of an image and tells its format.
func headOf(path string) ([]byte, string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, "", err
	}
	if info.IsDir() {
		return nil, "", errors.New("is a directory")
	}
	head := make([]byte, headSize)
	n, err := f.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return nil, "", fmt.Errorf("read disk: %w", err)
	}
	head = head[:n]
	format := formatOf(head)
	if format != "raw" && bootable(head) {
		return nil, "", fmt.Errorf("%s: %w", format, ErrAmbiguous)
	}
	return head, format, nil
}

// bootable says whether a disk begins with partitions or a file system that leave
// its first bytes alone, so that a guest can use the disk whatever they are. In the
// headers of image formats zeros are in these places.
func bootable(head []byte) bool {
	for _, m := range []struct {
		off   int
		magic string
	}{
		{510, "\x55\xaa"},  // MBR, boot sector of FAT
		{512, "EFI PART"},  // GPT (UEFI 2.10, 5.3.2)
		{4096, "EFI PART"}, // the same with sectors of 4 KiB
		{1080, "\x53\xef"}, // ext2, ext3, ext4
		{512, "LABELONE"},  // LVM2, in one of the first four sectors
		{1024, "LABELONE"},
		{1536, "LABELONE"},
		{0x8001, "CD001"}, // ISO 9660
	} {
		if len(head) >= m.off+len(m.magic) && string(head[m.off:m.off+len(m.magic)]) == m.magic {
			return true
		}
	}
	return false
}

// formatOf knows image formats by their first bytes; what has none is raw.
func formatOf(head []byte) string {
	for _, f := range []struct {
		format string
		off    int
		magic  string
	}{
		{"qcow2", 0, "QFI\xfb"},
		{"vmdk", 0, "KDMV"},
		{"vmdk", 0, "# Disk DescriptorFile"},
		{"vdi", 0x40, "\x7f\x10\xda\xbe"},
		{"vhdx", 0, "vhdxfile"},
		{"vpc", 0, "conectix"},
		{"qed", 0, "QED\x00"},
	} {
		if len(head) >= f.off+len(f.magic) && string(head[f.off:f.off+len(f.magic)]) == f.magic {
			return f.format
		}
	}
	return "raw"
}
