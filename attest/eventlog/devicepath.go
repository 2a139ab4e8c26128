package eventlog

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/plumbline-sec/plumbline/internal/bin"
)

// maxNodes bounds a device path; real ones have under ten nodes.
const maxNodes = 64

// DevicePath is where an image came from.
type DevicePath struct {
	// Text is the whole path as UEFI tools print it (UEFI 2.10, 10.6).
	Text string
	// File is the file's path within its volume, or empty.
	File string
}

// ParseDevicePath reads a binary device path (UEFI 2.10, 10.3). A missing end
// node is accepted at the end of the data, as some firmware omits it. Errors wrap
// [ErrFormat].
func ParseDevicePath(data []byte) (*DevicePath, error) {
	c := bin.Little(data)
	var text, file []string
	for c.Len() > 0 {
		if len(text) == maxNodes {
			return nil, fmt.Errorf("%w: device path of more than %d nodes", ErrFormat, maxNodes)
		}
		kind, sub, length := c.U8(), c.U8(), int(c.U16())
		body := c.Bytes(length - 4)
		if err := c.Err(); err != nil {
			return nil, fmt.Errorf("%w: device path: %w", ErrFormat, err)
		}
		if kind == 0x7f { // end; sub 0x01 starts another instance (10.3.1)
			if sub == 0xff {
				break
			}
			text = append(text, ",")
			continue
		}
		if kind == 4 && sub == 4 {
			file = append(file, decodeUTF16(body))
		}
		text = append(text, nodeText(kind, sub, body))
	}
	return &DevicePath{Text: strings.Join(text, "/"), File: strings.Join(file, `\`)}, nil
}

// nodeText writes one node. Kinds are hardware 1, ACPI 2, messaging 3, media 4
// and BIOS boot 5; the forms are those of UEFI 2.10, table 10.66.
func nodeText(kind, sub uint8, b []byte) string {
	c := bin.Little(b)
	text := ""
	switch uint16(kind)<<8 | uint16(sub) {
	case 0x0101:
		function, device := c.U8(), c.U8()
		text = fmt.Sprintf("Pci(0x%x,0x%x)", device, function)
	case 0x0103:
		text = fmt.Sprintf("MemoryMapped(%#x,%#x,%#x)", c.U32(), c.U64(), c.U64())
	case 0x0104:
		text = fmt.Sprintf("VenHw(%s)", readGUID(c))
	case 0x0201:
		text = acpiText(c.U32(), c.U32())
	case 0x0302:
		pun, lun := c.U16(), c.U16()
		text = fmt.Sprintf("Scsi(0x%x,0x%x)", pun, lun)
	case 0x0305:
		port, iface := c.U8(), c.U8()
		text = fmt.Sprintf("USB(0x%x,0x%x)", port, iface)
	case 0x030a:
		text = fmt.Sprintf("VenMsg(%s)", readGUID(c))
	case 0x030b:
		mac := c.Bytes(32)
		if len(mac) == 32 {
			text = fmt.Sprintf("MAC(%x,0x%x)", mac[:6], c.U8())
		}
	case 0x0312:
		text = fmt.Sprintf("Sata(0x%x,0x%x,0x%x)", c.U16(), c.U16(), c.U16())
	case 0x0317:
		text = fmt.Sprintf("NVMe(0x%x,%x)", c.U32(), c.Bytes(8))
	case 0x0318:
		text = fmt.Sprintf("Uri(%s)", printable(string(b)))
	case 0x0401:
		text = hardDriveText(c)
	case 0x0404:
		text = decodeUTF16(b)
	case 0x0406:
		text = fmt.Sprintf("FvFile(%s)", readGUID(c))
	case 0x0407:
		text = fmt.Sprintf("Fv(%s)", readGUID(c))
	case 0x0408:
		c.Skip(4)
		text = fmt.Sprintf("Offset(0x%x,0x%x)", c.U64(), c.U64())
	}
	if text == "" || c.Err() != nil {
		return fmt.Sprintf("Path(%d,%d,%x)", kind, sub, b[:min(len(b), 32)])
	}
	return text
}

// acpiText writes an ACPI node; PNP0A03 in compressed EISA form is a PCI root.
func acpiText(hid, uid uint32) string {
	switch hid {
	case 0x0a0341d0:
		return fmt.Sprintf("PciRoot(0x%x)", uid)
	case 0x0a0841d0:
		return fmt.Sprintf("PcieRoot(0x%x)", uid)
	}
	return fmt.Sprintf("Acpi(0x%08x,0x%x)", hid, uid)
}

// hardDriveText writes a partition (UEFI 2.10, 10.3.5.1).
func hardDriveText(c *bin.Cursor) string {
	number, start, size := c.U32(), c.U64(), c.U64()
	signature := c.Bytes(16)
	format, kind := c.U8(), c.U8()
	if c.Err() != nil {
		return ""
	}
	if format == 2 && kind == 2 {
		return fmt.Sprintf("HD(%d,GPT,%s,0x%x,0x%x)", number, GUID(signature), start, size)
	}
	return fmt.Sprintf("HD(%d,MBR,0x%08x,0x%x,0x%x)", number, binary.LittleEndian.Uint32(signature), start, size)
}

func readGUID(c *bin.Cursor) GUID {
	var g GUID
	copy(g[:], c.Bytes(16))
	return g
}
