// Command hvmdomain makes a hardware-assisted domain, as a toolstack would, and
// prints its number. It is for the first domain of a machine of the lab that
// boots Xen, where no toolstack is: the domain gets a CPU and memory, and is
// never run.
//
//	hvmdomain create    makes one
//	hvmdomain destroy N ends domain N
//
// It needs /dev/xen/privcmd, which the kernel's module xen-privcmd brings.
package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "hvmdomain:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	x, err := open()
	if err != nil {
		return err
	}
	switch {
	case len(args) == 1 && args[0] == "create":
		id, err := x.create()
		if err == nil {
			fmt.Println(id)
		}
		return err
	case len(args) == 2 && args[0] == "destroy":
		id, err := strconv.ParseUint(args[1], 10, 15)
		if err != nil {
			return err
		}
		return x.destroy(uint16(id))
	}
	return errors.New("want create or destroy NUMBER")
}
