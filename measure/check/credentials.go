package check

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// The kernel makes credentials for each process and shares them among its threads
// only (kernel/cred.c, copy_creds, CLONE_THREAD; 5.10 to 7.2); the first ones,
// init_cred, no program has, as each execution makes new ones. An attacker who writes
// memory gives a process the rights of another, or the kernel's, by a pointer. It is
// the pointer that others see (real_cred): with the other one (cred) the kernel itself
// acts for somebody else, for as long as an operation takes.

// credentialFact is a process that has the credentials of another.
type credentialFact struct {
	Cred    address `json:"cred"`
	Process int32   `json:"process"`
	User    bool    `json:"user"`   // it is none of the kernel's own
	Kernel  bool    `json:"kernel"` // they are init_cred
	Comm    string  `json:"comm"`
}

func (f credentialFact) compare(o credentialFact) int {
	return cmp.Or(cmp.Compare(f.Cred, o.Cred), cmp.Compare(f.Process, o.Process))
}

// maxShared bounds what is kept of shared credentials: a target can claim some
// millions of processes. What is over it is a fact by itself, so that those that pass
// cannot push out one that stays.
const maxShared = 10_000

var errManyShared = fmt.Errorf("more than %d processes have the credentials of others: the rest was not looked at", maxShared)

// sharedCredentials returns what of the credentials of tasks more than one process
// has, and what a program has of the kernel's. Facts have no Comm: that is noted in
// names, by process.
func sharedCredentials(all []kernel.Credentials, initial mem.Virt, names map[int32]string) map[credentialFact]bool {
	slices.SortFunc(all, func(a, b kernel.Credentials) int {
		return cmp.Or(cmp.Compare(a.At, b.At), cmp.Compare(a.Task.TGID, b.Task.TGID), cmp.Compare(a.Task.PID, b.Task.PID))
	})
	isUser := func(c kernel.Credentials) bool { return c.User }
	out := make(map[credentialFact]bool)
	for group := range runs(all, func(c kernel.Credentials) mem.Virt { return c.At }) {
		at := group[0].At
		if one := group[0].Task.TGID == group[len(group)-1].Task.TGID; !slices.ContainsFunc(group, isUser) || one && at != initial {
			continue
		}
		for threads := range runs(group, func(c kernel.Credentials) int32 { return c.Task.TGID }) {
			if len(out) >= maxShared {
				out[credentialFact{Process: others}] = true
				return out
			}
			process := threads[0].Task.TGID
			names[process] = threads[0].Task.Comm // the first thread's, if it is listed
			out[credentialFact{Cred: address(at), Process: process, User: slices.ContainsFunc(threads, isUser), Kernel: at == initial}] = true
		}
	}
	return out
}

// runs yields what has the same key, one after the other.
func runs[T any, K comparable](all []T, key func(T) K) iter.Seq[[]T] {
	return func(yield func([]T) bool) {
		for len(all) > 0 {
			n := 1
			for n < len(all) && key(all[n]) == key(all[0]) {
				n++
			}
			if !yield(all[:n]) {
				return
			}
			all = all[n:]
		}
	}
}

// credentials returns the processes that have the credentials of others and that is
// none of passing: processes come and go while they are read, and so do credentials.
// The tasks are those of a list that was read before.
func (c *collector) credentials(listed []kernel.Task) ([]credentialFact, error) {
	initial, _ := c.profile.Symbol("init_cred")
	names := make(map[int32]string)
	shared, err := lasting(c.ctx, func() (map[credentialFact]bool, error) {
		tasks := listed
		if listed = nil; tasks == nil {
			var err error
			if tasks, err = c.profile.Tasks(); err != nil {
				return nil, err
			}
		}
		all, err := c.profile.Credentials(tasks)
		return sharedCredentials(all, initial, names), err
	})
	if err != nil {
		return nil, err
	}
	out := slices.SortedFunc(maps.Keys(shared), credentialFact.compare)
	for i := range out {
		out[i].Comm = names[out[i].Process]
	}
	return out, nil
}

// maxNamed is how many processes a finding names.
const maxNamed = 8

// judgeCredentials makes a finding of each set of credentials that processes share.
func judgeCredentials(facts []credentialFact, out *measure.Check) error {
	by := make(map[address][]credentialFact)
	var err error
	for _, f := range facts {
		if f.Process == others {
			err = errManyShared
			continue
		}
		by[f.Cred] = append(by[f.Cred], f)
	}
	for _, cred := range slices.Sorted(maps.Keys(by)) {
		var who []string
		user, initial := false, false
		for _, f := range by[cred] {
			who = append(who, fmt.Sprintf("%s (process %d)", f.Comm, f.Process))
			user, initial = user || f.User, initial || f.Kernel
		}
		if !user || len(who) < 2 && !initial {
			continue // the others have ended meanwhile
		}
		if more := len(who) - maxNamed; more > 0 {
			who = append(who[:maxNamed], fmt.Sprintf("%d more", more))
		}
		explanation := "processes have one set of credentials: the kernel makes one for each"
		if initial {
			explanation = "a program has the kernel's first credentials: the kernel makes new ones for each"
		}
		out.Findings = append(out.Findings, measure.Finding{Address: cred.String(), Symbol: strings.Join(who, ", "), Explanation: explanation})
	}
	return err
}
