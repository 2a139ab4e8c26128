package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem/qemu"
)

func main() {
	ctx := context.Background()
	t := time.Now()
	lap := func(s string) { fmt.Println(s, time.Since(t)); t = time.Now() }
	vm, err := qemu.Open(ctx, os.Args[1])
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	defer vm.Close()
	lap("open")
	fmt.Println(vm.Target(), vm.Memory().Extents(), vm.RAM().Shared())
	te, err := vm.RAM().Touched()
	fmt.Println(len(te), err)
	regs, err := vm.Registers(ctx)
	lap("regs")
	fmt.Println(err, regs[0].IDT, regs[0].TR, regs[0].Missing)
	c := &kernel.Cache{}
	p, err := c.Profile(vm.Memory(), regs)
	lap("profile")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%+v\n", p.Facts())
	p, err = c.Profile(vm.Memory(), regs)
	lap("cached profile")
	ms, err := p.Modules()
	lap("modules")
	fmt.Println(err)
	for _, m := range ms {
		fmt.Println(m.Name, m.At, m.BuildID, m.Live, m.Areas, len(m.Sections))
	}
	if len(ms) > 0 {
		fmt.Println(ms[0].Sections)
	}
	for range 5 {
		t = time.Now()
		resume, err := vm.Pause(ctx)
		lap("pause")
		vm.Registers(ctx)
		lap("regs")
		err = resume()
		lap("resume")
		fmt.Println(err)
	}
}
