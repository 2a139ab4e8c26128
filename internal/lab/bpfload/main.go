// Command bpfload attaches a BPF program of each kind that this kernel takes, as
// monitoring and network software does, and keeps them until its input ends. It
// runs in the guest of a lab test. Each line that it prints is a kind and "ok" or
// why not.
package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
)

func main() {
	if err := rlimit.RemoveMemlock(); err != nil {
		fmt.Println("memlock", err)
	}
	var held []io.Closer
	for _, k := range kinds {
		closers, err := k.attach()
		held = append(held, closers...)
		if err != nil {
			fmt.Printf("%s: %v\n", k.name, err)
			continue
		}
		fmt.Printf("%s: ok\n", k.name)
	}
	fmt.Println("attached")
	_, _ = io.Copy(io.Discard, os.Stdin)
	for _, c := range slices.Backward(held) {
		_ = c.Close()
	}
}

// kind is one way to attach a program.
type kind struct {
	name   string
	attach func() ([]io.Closer, error)
}

var kinds = []kind{
	{"kprobe", func() ([]io.Closer, error) {
		return with(ebpf.Kprobe, "", 0, readsMemory, func(p *ebpf.Program) (io.Closer, error) { return link.Kprobe("do_sys_openat2", p, nil) })
	}},
	{"kprobe inside", func() ([]io.Closer, error) {
		return with(ebpf.Kprobe, "", 0, returnsZero, func(p *ebpf.Program) (io.Closer, error) {
			return insideOf("do_exit", p)
		})
	}},
	{"kretprobe", func() ([]io.Closer, error) {
		return with(ebpf.Kprobe, "", 0, returnsZero, func(p *ebpf.Program) (io.Closer, error) { return link.Kretprobe("vfs_read", p, nil) })
	}},
	{"tracepoint", func() ([]io.Closer, error) {
		return with(ebpf.TracePoint, "", 0, calls, func(p *ebpf.Program) (io.Closer, error) {
			return link.Tracepoint("sched", "sched_process_exec", p, nil)
		})
	}},
	{"raw tracepoint", func() ([]io.Closer, error) {
		return with(ebpf.RawTracepoint, "", 0, returnsZero, func(p *ebpf.Program) (io.Closer, error) {
			return link.AttachRawTracepoint(link.RawTracepointOptions{Name: "sched_switch", Program: p})
		})
	}},
	{"fentry", func() ([]io.Closer, error) {
		held, err := with(ebpf.Tracing, "vfs_write", ebpf.AttachTraceFEntry, followsPointer, tracing)
		if err != nil { // the structure begins with something else
			held, err = with(ebpf.Tracing, "vfs_write", ebpf.AttachTraceFEntry, followsNumber, tracing)
		}
		return held, err
	}},
	{"fexit", func() ([]io.Closer, error) {
		return with(ebpf.Tracing, "vfs_write", ebpf.AttachTraceFExit, returnsZero, tracing)
	}},
	{"fmod_ret", func() ([]io.Closer, error) {
		return with(ebpf.Tracing, "security_file_open", ebpf.AttachModifyReturn, returnsZero, tracing)
	}},
	{"cgroup", func() ([]io.Closer, error) {
		return with(ebpf.CGroupSKB, "", 0, returnsOne, func(p *ebpf.Program) (io.Closer, error) {
			return link.AttachCgroup(link.CgroupOptions{Path: "/sys/fs/cgroup", Attach: ebpf.AttachCGroupInetIngress, Program: p})
		})
	}},
	{"xdp", func() ([]io.Closer, error) {
		return with(ebpf.XDP, "", 0, passes, func(p *ebpf.Program) (io.Closer, error) {
			lo, err := net.InterfaceByName("lo")
			if err != nil {
				return nil, err
			}
			return link.AttachXDP(link.XDPOptions{Program: p, Interface: lo.Index})
		})
	}},
	{"socket filter", func() ([]io.Closer, error) { return with(ebpf.SocketFilter, "", 0, tailCalls(), nothing) }},
	{"struct_ops", congestionControl},
	{"atomics", func() ([]io.Closer, error) { return with(ebpf.SocketFilter, "", 0, arithmetic, nothing) }},
}

// insideOf probes the first place behind a function's entry that can be: others
// are between instructions.
func insideOf(function string, p *ebpf.Program) (held io.Closer, err error) {
	for offset := uint64(5); offset < 40; offset++ {
		if held, err = link.Kprobe(function, p, &link.KprobeOptions{Offset: offset}); err == nil {
			return held, nil
		}
	}
	return nil, err
}

func tracing(p *ebpf.Program) (io.Closer, error) {
	return link.AttachTracing(link.TracingOptions{Program: p})
}

// nothing keeps the program without attaching it.
func nothing(*ebpf.Program) (io.Closer, error) { return io.NopCloser(nil), nil }

func with(t ebpf.ProgramType, to string, at ebpf.AttachType, code asm.Instructions, attach func(*ebpf.Program) (io.Closer, error)) ([]io.Closer, error) {
	if code == nil {
		return nil, errors.New("no code")
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "lab", Type: t, AttachTo: to, AttachType: at, Instructions: code, License: "GPL"})
	if err != nil {
		return nil, err
	}
	attached, err := attach(program)
	if err != nil {
		return nil, errors.Join(err, program.Close())
	}
	return []io.Closer{program, attached}, nil
}
