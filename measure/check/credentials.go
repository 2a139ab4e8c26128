package check

import (
	"cmp"
	"fmt"
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

// sharedCredentials returns what of the credentials of tasks more than one process
// has, and what a program has of the kernel's. Facts have no Comm: that is noted in
// names, by process.
func sharedCredentials(all []kernel.Credentials, initial mem.Virt, names map[int32]string) map[credentialFact]bool {
	type group struct {
		processes map[int32]bool // which of them are user mode's
		user      bool
	}
	groups := make(map[mem.Virt]*group)
	for _, c := range all {
		g := groups[c.At]
		if g == nil {
			g = &group{processes: make(map[int32]bool)}
			groups[c.At] = g
		}
		g.processes[c.Task.TGID] = g.processes[c.Task.TGID] || c.User
		g.user = g.user || c.User
		if names[c.Task.TGID] == "" || c.Task.PID == c.Task.TGID {
			names[c.Task.TGID] = c.Task.Comm
		}
	}
	out := make(map[credentialFact]bool)
	for at, g := range groups {
		if !g.user || len(g.processes) < 2 && at != initial {
			continue
		}
		for process, user := range g.processes {
			out[credentialFact{Cred: address(at), Process: process, User: user, Kernel: at == initial}] = true
		}
	}
	return out
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

// judgeCredentials makes a finding of each set of credentials that processes share.
func judgeCredentials(facts []credentialFact, out *measure.Check) {
	by := make(map[address][]credentialFact)
	for _, f := range facts {
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
		explanation := "processes have one set of credentials: the kernel makes one for each"
		if initial {
			explanation = "a program has the kernel's first credentials: the kernel makes new ones for each"
		}
		out.Findings = append(out.Findings, measure.Finding{Address: cred.String(), Symbol: strings.Join(who, ", "), Explanation: explanation})
	}
}
