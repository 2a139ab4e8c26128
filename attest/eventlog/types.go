package eventlog

import "fmt"

// Type is an event type (PFP 10.4.1). It is a claim of the log's writer: no
// digest covers it.
type Type uint32

// Event types.
const (
	PrebootCert          Type = 0x00
	PostCode             Type = 0x01
	NoAction             Type = 0x03
	Separator            Type = 0x04
	Action               Type = 0x05
	EventTag             Type = 0x06
	CRTMContents         Type = 0x07
	CRTMVersion          Type = 0x08
	CPUMicrocode         Type = 0x09
	PlatformConfigFlags  Type = 0x0a
	TableOfDevices       Type = 0x0b
	CompactHash          Type = 0x0c
	IPL                  Type = 0x0d
	IPLPartitionData     Type = 0x0e
	NonhostCode          Type = 0x0f
	NonhostConfig        Type = 0x10
	NonhostInfo          Type = 0x11
	OmitBootDeviceEvents Type = 0x12
	PostCode2            Type = 0x13
	VariableDriverConfig Type = 0x80000001
	VariableBoot         Type = 0x80000002
	BootApplication      Type = 0x80000003
	BootDriver           Type = 0x80000004
	RuntimeDriver        Type = 0x80000005
	GPT                  Type = 0x80000006
	EFIAction            Type = 0x80000007
	FirmwareBlob         Type = 0x80000008
	HandoffTables        Type = 0x80000009
	FirmwareBlob2        Type = 0x8000000a
	HandoffTables2       Type = 0x8000000b
	VariableBoot2        Type = 0x8000000c
	GPT2                 Type = 0x8000000d
	HCRTM                Type = 0x80000010
	VariableAuthority    Type = 0x800000e0
	SPDMFirmwareBlob     Type = 0x800000e1
	SPDMFirmwareConfig   Type = 0x800000e2
	SPDMDevicePolicy     Type = 0x800000e3
	SPDMDeviceAuthority  Type = 0x800000e4
)

var typeNames = map[Type]string{
	PrebootCert:          "EV_PREBOOT_CERT",
	PostCode:             "EV_POST_CODE",
	NoAction:             "EV_NO_ACTION",
	Separator:            "EV_SEPARATOR",
	Action:               "EV_ACTION",
	EventTag:             "EV_EVENT_TAG",
	CRTMContents:         "EV_S_CRTM_CONTENTS",
	CRTMVersion:          "EV_S_CRTM_VERSION",
	CPUMicrocode:         "EV_CPU_MICROCODE",
	PlatformConfigFlags:  "EV_PLATFORM_CONFIG_FLAGS",
	TableOfDevices:       "EV_TABLE_OF_DEVICES",
	CompactHash:          "EV_COMPACT_HASH",
	IPL:                  "EV_IPL",
	IPLPartitionData:     "EV_IPL_PARTITION_DATA",
	NonhostCode:          "EV_NONHOST_CODE",
	NonhostConfig:        "EV_NONHOST_CONFIG",
	NonhostInfo:          "EV_NONHOST_INFO",
	OmitBootDeviceEvents: "EV_OMIT_BOOT_DEVICE_EVENTS",
	PostCode2:            "EV_POST_CODE2",
	VariableDriverConfig: "EV_EFI_VARIABLE_DRIVER_CONFIG",
	VariableBoot:         "EV_EFI_VARIABLE_BOOT",
	BootApplication:      "EV_EFI_BOOT_SERVICES_APPLICATION",
	BootDriver:           "EV_EFI_BOOT_SERVICES_DRIVER",
	RuntimeDriver:        "EV_EFI_RUNTIME_SERVICES_DRIVER",
	GPT:                  "EV_EFI_GPT_EVENT",
	EFIAction:            "EV_EFI_ACTION",
	FirmwareBlob:         "EV_EFI_PLATFORM_FIRMWARE_BLOB",
	HandoffTables:        "EV_EFI_HANDOFF_TABLES",
	FirmwareBlob2:        "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
	HandoffTables2:       "EV_EFI_HANDOFF_TABLES2",
	VariableBoot2:        "EV_EFI_VARIABLE_BOOT2",
	GPT2:                 "EV_EFI_GPT_EVENT2",
	HCRTM:                "EV_EFI_HCRTM_EVENT",
	VariableAuthority:    "EV_EFI_VARIABLE_AUTHORITY",
	SPDMFirmwareBlob:     "EV_EFI_SPDM_FIRMWARE_BLOB",
	SPDMFirmwareConfig:   "EV_EFI_SPDM_FIRMWARE_CONFIG",
	SPDMDevicePolicy:     "EV_EFI_SPDM_DEVICE_POLICY",
	SPDMDeviceAuthority:  "EV_EFI_SPDM_DEVICE_AUTHORITY",
}

// String is the specification's name of t.
func (t Type) String() string {
	if name, ok := typeNames[t]; ok {
		return name
	}
	return fmt.Sprintf("event type %#08x", uint32(t))
}
