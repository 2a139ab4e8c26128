// Command hvmdomain makes a hardware-assisted domain, as a toolstack would, and
// prints its number. It is for the first domain of a machine of the lab that
// boots Xen, where no toolstack is: the domain gets CPUs and memory and, with
// -run, a program that computes, leaves the domain in several ways and sleeps; and
// one more CPU that is not started.
// With -destroy it ends a domain that it made.
//
// It needs /dev/xen/privcmd, which the kernel's module xen-privcmd brings.
package main

import (
	"flag"
	"fmt"
	"os"
)

func main() {
	cpus := flag.Int("cpus", 1, "how many CPUs the domain has")
	starts := flag.Bool("run", false, "let it run")
	destroy := flag.Int("destroy", 0, "end the domain of this number instead")
	flag.Parse()
	if err := run(*cpus, *starts, *destroy); err != nil {
		fmt.Fprintln(os.Stderr, "hvmdomain:", err)
		os.Exit(1)
	}
}

func run(cpus int, starts bool, destroy int) error {
	x, err := open()
	if err != nil {
		return err
	}
	if destroy != 0 {
		return x.destroy(uint16(destroy))
	}
	id, err := x.create(cpus, starts)
	if err == nil {
		fmt.Println(id)
	}
	return err
}
