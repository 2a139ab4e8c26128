// Command kvmguest runs virtual machines through /dev/kvm, for a machine of the
// lab to be a hypervisor that has something to run. Their processors are in long
// mode and look as much like the host's as they can: their descriptor tables,
// task state, system call entry and code are at addresses where Linux has its own.
// Whoever takes their registers for the host's judges the wrong kernel.
//
//	kvmguest [-vms N] [-churn] MODE...
//
// Each MODE is a CPU of each machine: spin never leaves the guest by itself, io
// leaves it at each turn and takes interrupts, hlt halts. It prints one line when
// all have run and then runs until it is ended. With -churn, machines are made and
// destroyed all the time instead.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"sync"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "kvmguest:", err)
		os.Exit(1)
	}
}

// turns is how often each CPU of a machine runs before the machine is destroyed,
// with -churn.
const turns = 50

func run() error {
	vms := flag.Int("vms", 1, "how many machines")
	churn := flag.Bool("churn", false, "make and destroy machines all the time")
	flag.Parse()
	if flag.NArg() == 0 {
		return errors.New("no CPU: spin, io or hlt")
	}
	if *churn {
		fmt.Println("running")
		for {
			if err := together(*vms, func() error { return live(flag.Args(), turns, func() {}) }); err != nil {
				return err
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	var ready sync.WaitGroup
	ready.Add(*vms * flag.NArg())
	go func() {
		ready.Wait()
		fmt.Println("running")
	}()
	return together(*vms, func() error { return live(flag.Args(), 0, ready.Done) })
}

// together does something n times at once.
func together(n int, do func() error) error {
	failed := make(chan error, n)
	for range n {
		go func() { failed <- do() }()
	}
	var errs []error
	for range n {
		errs = append(errs, <-failed)
	}
	return errors.Join(errs...)
}

// live makes a machine, runs its CPUs, each for so many turns or for ever, and
// destroys it.
func live(modes []string, turns int, ran func()) error {
	m, err := newMachine()
	if err != nil {
		return err
	}
	defer m.close()
	var cpus []*cpu
	for i, mode := range modes {
		c, err := m.newCPU(i, mode)
		if err != nil {
			return err
		}
		defer c.close()
		cpus = append(cpus, c)
	}
	failed := make(chan error, len(cpus))
	for _, c := range cpus {
		go func() { failed <- c.run(turns, ran) }()
	}
	var errs []error
	for range cpus {
		errs = append(errs, <-failed)
	}
	return errors.Join(errs...)
}
