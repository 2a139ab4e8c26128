// Command hvmdomain makes a hardware-assisted domain, as a toolstack would, and
// prints its number. It is for the first domain of a machine of the lab that
// boots Xen, where no toolstack is: the domain gets a CPU and memory, and is
// never run.
//
// It needs /dev/xen/privcmd, which the kernel's module xen-privcmd brings.
package main

import (
	"fmt"
	"os"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "hvmdomain:", err)
		os.Exit(1)
	}
}

func run() error {
	x, err := open()
	if err != nil {
		return err
	}
	id, err := x.create()
	if err == nil {
		fmt.Println(id)
	}
	return err
}
