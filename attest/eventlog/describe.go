package eventlog

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/plumbline-sec/plumbline/internal/bin"
)

// Describe says in words what an event tells. It never fails: an event that
// cannot be read is described as that. The words are the log's claim.
func (e *Event) Describe() string {
	switch e.Type {
	case NoAction:
		return e.describeNoAction()
	case Separator:
		return describeSeparator(e.Data)
	case VariableDriverConfig, VariableBoot, VariableBoot2, VariableAuthority:
		return e.describeVariable()
	case BootApplication, BootDriver, RuntimeDriver:
		return e.describeImage()
	case GPT, GPT2:
		return e.describePartitions()
	case CRTMVersion:
		return fmt.Sprintf("firmware version %q", e.text())
	case Action, EFIAction, OmitBootDeviceEvents:
		return fmt.Sprintf("firmware: %s", printable(string(e.Data)))
	case IPL:
		return fmt.Sprintf("boot loader measured %s", quoted(e.text()))
	case EventTag:
		return e.describeTag()
	case HandoffTables, HandoffTables2:
		return e.describeTables()
	case PostCode, PostCode2, FirmwareBlob, FirmwareBlob2:
		return e.describeBlob()
	}
	return fmt.Sprintf("%d bytes of data", len(e.Data))
}

func (e *Event) describeNoAction() string {
	if locality, ok := e.StartupLocality(); ok {
		return fmt.Sprintf("TPM started at locality %d", locality)
	}
	if bytes.HasPrefix(e.Data, []byte("Spec ID Event03\x00")) {
		return "log of the PC Client Platform Firmware Profile"
	}
	name, _, _ := bytes.Cut(e.Data[:min(16, len(e.Data))], []byte{0})
	return fmt.Sprintf("not measured: %s", quoted(printable(string(name))))
}

// describeSeparator tells the end of the firmware's part in a PCR (PFP 3.3.2.3):
// 0 or all ones where all was well, 1 after an error.
func describeSeparator(data []byte) string {
	if SeparatorOK(data) {
		return "separator: what follows comes after the firmware handed over"
	}
	return fmt.Sprintf("separator with error %x", data[:min(len(data), 16)])
}

// SeparatorOK reports whether a separator's data says that all was well.
func SeparatorOK(data []byte) bool {
	return bytes.Equal(data, []byte{0, 0, 0, 0}) || bytes.Equal(data, []byte{0xff, 0xff, 0xff, 0xff})
}

func (e *Event) describeVariable() string {
	v, err := e.Variable()
	if err != nil {
		// Some firmware logs only the value of boot variables.
		return fmt.Sprintf("UEFI variable of %d bytes", len(e.Data))
	}
	if e.Type == VariableAuthority {
		if s, ok := v.Authority(); ok {
			return fmt.Sprintf("an image was allowed by %s of db", s)
		}
		return fmt.Sprintf("an image was allowed by %s (%s)", v.Name, v.Vendor)
	}
	switch {
	case v.Global("SecureBoot"):
		return "Secure Boot is " + onOff(v.Data)
	case v.Global("PK"), v.Global("KEK"), v.Security("db"), v.Security("dbx"):
		return describeSignatures(v)
	case v.Global("BootOrder"):
		return "boot order " + bootOrder(v.Data)
	case strings.HasPrefix(v.Name, "Boot") && v.Global(v.Name) && len(v.Name) == 8:
		if o, err := v.LoadOption(); err == nil {
			return fmt.Sprintf("boot entry %s %s: %s", v.Name, quoted(o.Description), o.Path.Text)
		}
	}
	return fmt.Sprintf("UEFI variable %s of %d bytes", quoted(v.Name), len(v.Data))
}

func onOff(data []byte) string {
	switch {
	case len(data) == 0:
		return "absent"
	case len(data) == 1 && data[0] == 1:
		return "on"
	case len(data) == 1 && data[0] == 0:
		return "off"
	}
	return fmt.Sprintf("%x", data[:min(len(data), 16)])
}

func describeSignatures(v *Variable) string {
	list, err := Signatures(v.Data)
	if err != nil {
		return fmt.Sprintf("%s of %d bytes that cannot be read", v.Name, len(v.Data))
	}
	if len(list) == 0 {
		return v.Name + " is empty"
	}
	const most = 4
	var words []string
	for _, s := range list[:min(len(list), most)] {
		words = append(words, s.String())
	}
	if len(list) > most {
		words = append(words, fmt.Sprintf("and %d more", len(list)-most))
	}
	return v.Name + " holds " + strings.Join(words, ", ")
}

// String names a signature for people, by the start of its digest.
func (s Signature) String() string {
	digest := fmt.Sprintf("%x", s.Digest[:min(len(s.Digest), 8)])
	if len(s.Digest) > 8 {
		digest += "..."
	}
	if s.Kind == "x509" {
		return fmt.Sprintf("certificate %s (sha256 %s)", quoted(s.Subject), digest)
	}
	return s.Kind + " " + digest
}

func bootOrder(data []byte) string {
	var out []string
	for c := bin.Little(data); c.Len() >= 2 && len(out) < 32; {
		out = append(out, fmt.Sprintf("%04X", c.U16()))
	}
	return strings.Join(out, " ")
}

func (e *Event) describeImage() string {
	what := map[Type]string{BootApplication: "application", BootDriver: "driver", RuntimeDriver: "runtime driver"}[e.Type]
	image, err := e.Image()
	if err != nil {
		return fmt.Sprintf("an EFI %s whose path cannot be read", what)
	}
	return fmt.Sprintf("EFI %s %s", what, image.Path.Text)
}

func (e *Event) describePartitions() string {
	disk, partitions, err := e.Partitions()
	if err != nil {
		return "a partition table that cannot be read"
	}
	var words []string
	for i, p := range partitions {
		name := p.Name
		if name == "" {
			name = p.TypeWords
		}
		words = append(words, fmt.Sprintf("%d %s", i+1, quoted(name)))
	}
	return fmt.Sprintf("partition table of disk %s: %s", disk, strings.Join(words, ", "))
}

// describeTag reads a TCG_PCClientTaggedEvent (PFP 10.4.2.1). The two of Linux's
// EFI stub (drivers/firmware/efi/libstub, since 5.18) and those of systemd-stub
// have text after the tag.
func (e *Event) describeTag() string {
	c := bin.Little(e.Data)
	id := c.U32()
	data := c.Bytes(int(c.U32()))
	if c.Err() != nil {
		return "a tagged event that cannot be read"
	}
	return fmt.Sprintf("tag %#x: %s", id, quoted(text(data)))
}

func (e *Event) describeTables() string {
	c := bin.Little(e.Data)
	if e.Type == HandoffTables2 {
		c.Skip(int(c.U8()))
	}
	count := c.U64()
	var words []string
	for range min(count, 16) {
		guid := readGUID(c).String()
		c.Skip(8)
		if c.Err() != nil {
			return "configuration tables that cannot be read"
		}
		switch guid {
		case guidSMBIOS, guidSMBIOS3:
			guid = "SMBIOS"
		case guidACPI2:
			guid = "ACPI"
		}
		words = append(words, guid)
	}
	return "configuration tables: " + strings.Join(words, ", ")
}

// describeBlob reads UEFI_PLATFORM_FIRMWARE_BLOB and BLOB2 (PFP 10.4.5), or
// the text that POST codes may hold instead.
func (e *Event) describeBlob() string {
	c := bin.Little(e.Data)
	name := ""
	if e.Type == FirmwareBlob2 || e.Type == PostCode2 {
		name = printable(string(c.Bytes(int(c.U8()))))
	}
	base, size := c.U64(), c.U64()
	if c.Err() == nil && c.Len() == 0 {
		if name != "" {
			name = quoted(name) + " "
		}
		return fmt.Sprintf("firmware code %sat %#x, %d bytes", name, base, size)
	}
	return fmt.Sprintf("firmware code %s", quoted(printable(string(e.Data[:min(len(e.Data), 64)]))))
}

// text is an event's text, whichever of the two encodings it has.
func (e *Event) text() string { return text(e.Data) }

// Text is what an EV_IPL, EV_EVENT_TAG or version event says, read as UTF-16
// where it looks like it and as bytes otherwise.
func (e *Event) Text() string {
	if e.Type == EventTag && len(e.Data) >= 8 {
		return text(e.Data[8:])
	}
	return text(e.Data)
}

func text(data []byte) string {
	if len(data) >= 2 && len(data)%2 == 0 && data[1] == 0 {
		return decodeUTF16(data)
	}
	return printable(strings.TrimRight(string(data), "\x00"))
}

// quoted shortens and quotes text from a log.
func quoted(s string) string {
	const most = 300
	if len(s) > most {
		s = s[:most] + "..."
	}
	return fmt.Sprintf("%q", s)
}
