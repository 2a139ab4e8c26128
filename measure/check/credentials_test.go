package check

import (
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// An attacker gives a process the rights of another by a pointer. Threads of one
// process, and of the kernel, may share theirs.
func TestDetectsStolenCredentials(t *testing.T) {
	const initial, one, two = 0xffffffff82a00000, 0xff11000001000000, 0xff11000002000000
	has := func(process, thread int32, at mem.Virt, user bool) kernel.Credentials {
		return kernel.Credentials{Task: kernel.Task{PID: thread, TGID: process, Comm: "name"}, At: at, User: user}
	}
	for name, tt := range map[string]struct {
		tasks    []kernel.Credentials
		findings int
	}{
		"each its own":                  {[]kernel.Credentials{has(1, 1, one, true), has(2, 2, two, true)}, 0},
		"threads of a process":          {[]kernel.Credentials{has(1, 1, one, true), has(1, 3, one, true), has(2, 2, two, true)}, 0},
		"threads of the kernel":         {[]kernel.Credentials{has(2, 2, initial, false), has(3, 3, initial, false), has(1, 1, one, true)}, 0},
		"of another":                    {[]kernel.Credentials{has(1, 1, one, true), has(2, 2, one, true)}, 1},
		"of a thread of another":        {[]kernel.Credentials{has(1, 1, one, true), has(1, 3, two, true), has(2, 2, two, true)}, 1},
		"of a thread of the kernel":     {[]kernel.Credentials{has(1, 1, one, true), has(2, 2, one, false)}, 1},
		"of the kernel":                 {[]kernel.Credentials{has(1, 1, initial, true)}, 1},
		"of the kernel, and its thread": {[]kernel.Credentials{has(1, 1, initial, true), has(2, 2, initial, false)}, 1},
		"two of others":                 {[]kernel.Credentials{has(1, 1, one, true), has(2, 2, one, true), has(3, 3, two, true), has(4, 4, two, true)}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			facts := slices.SortedFunc(maps.Keys(sharedCredentials(tt.tasks, initial, make(map[int32]string))), credentialFact.compare)
			var out measure.Check
			if err := judgeCredentials(facts, &out); err != nil || len(out.Findings) != tt.findings {
				t.Errorf("%v, %d findings, want %d: %+v", err, len(out.Findings), tt.findings, out.Findings)
			}
		})
	}
	// One of two has ended before the last comparison.
	facts := sharedCredentials([]kernel.Credentials{has(1, 1, one, true), has(2, 2, one, true)}, initial, make(map[int32]string))
	maps.DeleteFunc(facts, func(f credentialFact, _ bool) bool { return f.Process == 1 })
	var out measure.Check
	if err := judgeCredentials(slices.Collect(maps.Keys(facts)), &out); err != nil || len(out.Findings) != 0 {
		t.Errorf("one is left: %v, %+v", err, out.Findings)
	}
	// A target claims more than is kept: a finding that is short, and not measured.
	var many []kernel.Credentials
	for i := range int32(maxShared + 10) {
		many = append(many, has(100+i, 100+i, one, true))
	}
	facts = sharedCredentials(many, initial, make(map[int32]string))
	if len(facts) != maxShared+1 {
		t.Errorf("%d facts are kept", len(facts))
	}
	err := judgeCredentials(slices.Collect(maps.Keys(facts)), &out)
	if !errors.Is(err, errManyShared) || len(out.Findings) != 1 || len(out.Findings[0].Symbol) > 1000 {
		t.Errorf("too many: %v, %d findings", err, len(out.Findings))
	}
}
