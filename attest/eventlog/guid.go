package eventlog

import (
	"encoding/binary"
	"fmt"
)

// GUID is an EFI_GUID as it lies in memory (UEFI 2.10, 2.3.1): the first three
// fields little-endian.
type GUID [16]byte

// String writes the usual form, lower case.
func (g GUID) String() string {
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", binary.LittleEndian.Uint32(g[0:]),
		binary.LittleEndian.Uint16(g[4:]), binary.LittleEndian.Uint16(g[6:]), g[8:10], g[10:])
}

// GUIDs that this package interprets, in text form.
const (
	guidGlobalVariable   = "8be4df61-93ca-11d2-aa0d-00e098032b8c" // UEFI 2.10, 3.3
	guidImageSecurity    = "d719b2cb-3d3a-4596-a3bc-dad00e67656f" // UEFI 2.10, 32.6.1
	guidCertX509         = "a5c059a1-94e4-4aa7-87b5-ab155c2bf072" // UEFI 2.10, 32.4.1
	guidCertSHA256       = "c1c41626-504c-4092-aca9-41f936934328"
	guidCertX509SHA256   = "3bd2a492-96c0-4079-b420-fcf98ef103ed"
	guidSMBIOS           = "eb9d2d31-2d88-11d3-9a16-0090273fc14d"
	guidSMBIOS3          = "f2fd1544-9794-4a2c-992e-e5bbcf20e394"
	guidACPI2            = "8868e871-e4f1-11d3-bc22-0080c73c8881"
	guidEFISystem        = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b" // partition types
	guidLinuxData        = "0fc63daf-8483-4772-8e79-3d69d8477de4"
	guidLinuxRootX86     = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
	guidShimLock         = "605dab50-e046-4300-abb6-3dd810dd8b23"
	guidMicrosoftBasic   = "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7"
	guidBIOSBootOrLegacy = "21686148-6449-6e6f-744e-656564454649"
)
