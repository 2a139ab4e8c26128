package eventlog

import (
	"fmt"

	"github.com/plumbline-sec/plumbline/internal/bin"
)

// Image is an EFI image that the firmware measured before starting it
// (UEFI_IMAGE_LOAD_EVENT, PFP 10.4.4). Its event's digest is the image's
// Authenticode hash; the data, this path included, is only the log's claim.
type Image struct {
	Address uint64 // where it was loaded
	Length  uint64 // bytes loaded
	Path    DevicePath
}

// Image reads the image of a boot application or driver event. Errors wrap
// [ErrFormat].
func (e *Event) Image() (*Image, error) {
	c := bin.Little(e.Data)
	var image Image
	image.Address, image.Length = c.U64(), c.U64()
	c.Skip(8) // link-time address
	length := c.U64()
	if c.Err() == nil && length > uint64(c.Len()) {
		return nil, fmt.Errorf("%w: image with a device path of %d bytes", ErrFormat, length)
	}
	raw := c.Bytes(int(length))
	if err := c.Err(); err != nil {
		return nil, fmt.Errorf("%w: image: %w", ErrFormat, err)
	}
	path, err := ParseDevicePath(raw)
	if err != nil {
		return nil, err
	}
	image.Path = *path
	return &image, nil
}

// LoadOption is an entry of the boot menu (EFI_LOAD_OPTION, UEFI 2.10, 3.1.3).
type LoadOption struct {
	Active      bool
	Description string
	Path        DevicePath
}

// LoadOption reads the value of a variable Boot####. Errors wrap [ErrFormat].
func (v *Variable) LoadOption() (*LoadOption, error) {
	c := bin.Little(v.Data)
	attributes, length := c.U32(), int(c.U16())
	start := c.Offset()
	for c.U16() != 0 && c.Err() == nil {
	}
	if err := c.Err(); err != nil {
		return nil, fmt.Errorf("%w: load option: %w", ErrFormat, err)
	}
	description := decodeUTF16(v.Data[start:c.Offset()])
	raw := c.Bytes(length)
	if err := c.Err(); err != nil {
		return nil, fmt.Errorf("%w: load option: %w", ErrFormat, err)
	}
	path, err := ParseDevicePath(raw)
	if err != nil {
		return nil, err
	}
	return &LoadOption{Active: attributes&1 != 0, Description: description, Path: *path}, nil
}
