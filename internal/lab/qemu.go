package lab

import (
	"fmt"
	"path/filepath"
)

// commandLine is QEMU's. Each socket is a chardev, which takes any path: the
// short forms would choke on a comma. reconnect is [reconnectOption].
func (m *Machine) commandLine(o Options, reconnect string) []string {
	if m.Xen != "" {
		return m.xenCommandLine(o)
	}
	const mib = 1 << 20
	argv := []string{"qemu-system-x86_64",
		"-name", "plumbline-lab", "-nodefaults", "-no-user-config", "-display", "none",
		"-no-shutdown", // a guest that powers off can be powered on again, as by a BMC
		"-smp", fmt.Sprint(m.CPUs), "-m", fmt.Sprintf("%dM", m.Memory/mib),
	}
	add := func(args ...string) { argv = append(argv, args...) }
	if m.Accel == accelKVM {
		add("-accel", "kvm", "-cpu", "max") // with the host's own extension, SVM or VMX
	} else {
		add("-accel", "tcg,thread=multi", "-cpu", m.CPU)
	}
	machine := "q35,smm=on"
	if m.RAM != "" {
		add("-object", fmt.Sprintf("memory-backend-file,id=ram,size=%dM,mem-path=%s,share=on", m.Memory/mib, escape(m.RAM)))
		machine += ",memory-backend=ram"
	}
	add("-machine", machine)
	if o.Append == "" {
		m.addFirmware(add)
	} else {
		add("-kernel", m.Vmlinuz, "-initrd", m.Initrd, "-append", baseCmdline+" "+o.Append)
	}
	m.addSockets(add)
	m.addDevices(add, o)
	m.addBMC(add, reconnect)
	if m.Trap != "" {
		add("-plugin", fmt.Sprintf("%s,control=%s", escape(o.Plugin), escape(m.Trap)))
	}
	return argv
}

// addFirmware adds UEFI with Secure Boot, whose variables only SMM may write.
func (m *Machine) addFirmware(add func(...string)) {
	add("-global", "driver=cfi.pflash01,property=secure,value=on",
		"-global", "ICH9-LPC.disable_s3=1",
		"-drive", "if=pflash,unit=0,format=raw,readonly=on,file="+firmwareCode,
		"-drive", "if=pflash,unit=1,format=raw,file="+escape(filepath.Join(m.Dir, "vars.fd")))
}

func (m *Machine) addSockets(add func(...string)) {
	listen := func(id, path string) {
		add("-chardev", fmt.Sprintf("socket,id=%s,path=%s,server=on,wait=off", id, escape(path)))
	}
	for i, path := range []string{m.QMP, m.LabQMP, m.EventsQMP} {
		id := fmt.Sprintf("qmp%d", i)
		listen(id, path)
		add("-mon", "chardev="+id+",mode=control")
	}
	listen("gdb0", m.GDB)
	add("-gdb", "chardev:gdb0")
	add("-chardev", fmt.Sprintf("socket,id=serial0,path=%s,server=on,wait=off,logfile=%s,logappend=on", escape(m.Serial), escape(m.SerialLog)))
	add("-serial", "chardev:serial0")
	listen("agent0", m.Agent)
}

func (m *Machine) addDevices(add func(...string), o Options) {
	if o.Append == "" {
		disk(add, "esp", m.ESP, ",readonly=on")
		add("-device", "virtio-blk-pci,drive=esp,serial=plumbline-esp,bootindex=0")
	}
	m.addRoot(add)
	m.addFiles(add, o)
	for i, path := range o.Disks {
		id := fmt.Sprintf("disk%d", i)
		disk(add, id, path, ",cache=writeback")
		add("-device", "virtio-blk-pci,drive="+id+",serial=plumbline-"+id)
	}
	m.addAgent(add)
	add("-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0")
	add("-netdev", "user,id=net0", "-device", "virtio-net-pci,netdev=net0,romfile=")
	add("-chardev", "socket,id=tpm0,path="+escape(m.TPM), "-tpmdev", "emulator,id=tpm0,chardev=tpm0", "-device", "tpm-crb,tpmdev=tpm0")
}

// addBMC adds a BMC that another process is, whenever that comes up.
func (m *Machine) addBMC(add func(...string), reconnect string) {
	add("-chardev", "socket,id=ipmi0,"+reconnect+",path="+escape(m.BMCSocket),
		"-device", "ipmi-bmc-extern,id=bmc0,chardev=ipmi0", "-device", "isa-ipmi-kcs,bmc=bmc0,irq=5")
}

func (m *Machine) addRoot(add func(...string)) {
	disk(add, "root", m.Disk, ",cache=writeback")
	add("-device", "virtio-blk-pci,drive=root,serial=plumbline-root")
}

func (m *Machine) addFiles(add func(...string), o Options) {
	if o.Files != "" {
		disk(add, "files", filepath.Join(m.Dir, "files.img"), ",readonly=on")
		add("-device", "virtio-blk-pci,drive=files,serial=plumbline-files")
	}
}

func (m *Machine) addAgent(add func(...string)) {
	add("-device", "virtio-serial-pci", "-device", "virtserialport,chardev=agent0,name=org.qemu.guest_agent.0")
}

func disk(add func(...string), id, path, options string) {
	add("-drive", fmt.Sprintf("if=none,id=%s,format=raw,file=%s%s", id, escape(path), options))
}

// escape doubles the commas of a value in QEMU's option syntax.
func escape(value string) string {
	var out []byte
	for i := range len(value) {
		if value[i] == ',' {
			out = append(out, ',')
		}
		out = append(out, value[i])
	}
	return string(out)
}
