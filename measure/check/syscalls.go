package check

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/plumbline-sec/plumbline/internal/bin"
	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// linux.syscalls: every entry of the system call tables is the start of a
// system call's function; with the expected image, of the very one that the
// image has there.
//
// Proves: that the tables send each number to its function. Trusts: linux.text
// for the functions and for the entry code. From 6.9 on (and in stable kernels
// that took the change) the kernel does not call through the table but through
// a switch in x64_sys_call: there the table proves nothing, and that function's
// text, which linux.text covers, takes its place; the report says so. It cannot
// see LSTAR, the register through which system calls enter: stock QEMU does not
// show it.
const syscallsName = "linux.syscalls"

func syscallsCheck() check {
	return check{name: syscallsName, plan: planSyscalls, collect: collectSyscalls, judge: judgeSyscalls, memo: true}
}

// syscallsData are the facts of linux.syscalls.
type syscallsData struct {
	Tables []syscallTable `json:"tables"`
	Switch string         `json:"switch,omitempty"` // the function that dispatches instead of the table, if there is one
}

type syscallTable struct {
	Name    string    `json:"name"`
	At      address   `json:"at"`
	Entries []pointer `json:"entries"`
}

// syscallTables names the tables: 64-bit, 32-bit and, in some builds, x32.
var syscallTables = []string{"sys_call_table", "ia32_sys_call_table", "x32_sys_call_table"}

// x32First is where the numbers of x32 start, which share functions with the
// others (arch/x86/entry/syscalls/syscall_64.tbl), as some of the 32-bit ones do
// among themselves.
const x32First = 512

// maxSyscalls bounds a table; 6.12 has 467 entries, 5.10 has 441. Less than
// minSyscalls is no system call table.
const (
	maxSyscalls = 1024
	minSyscalls = 300
)

// tableBytes is how far a table may reach: to the next symbol.
func (c *collector) tableBytes(name string) (at mem.Virt, size uint64, ok bool) {
	at, ok = c.profile.Symbol(name)
	if !ok {
		return 0, 0, false
	}
	next := c.profile.Symbols.Next(uint64(at))
	size = min(next-uint64(at), maxSyscalls*8) &^ 7
	return at, size, next > uint64(at)
}

func planSyscalls(c *collector) error {
	for _, name := range syscallTables {
		if at, size, ok := c.tableBytes(name); ok {
			if err := c.want(at, size); err != nil {
				return err
			}
		}
	}
	return nil
}

func collectSyscalls(c *collector) (any, measure.Coverage, error) {
	var data syscallsData
	var coverage measure.Coverage
	for _, name := range syscallTables {
		at, size, ok := c.tableBytes(name)
		if !ok {
			continue
		}
		raw, err := c.wanted(at, size)
		if err != nil {
			return nil, coverage, fmt.Errorf("%s: %w", name, err)
		}
		table := syscallTable{Name: name, At: address(at), Entries: c.syscallEntries(name, at, raw)}
		data.Tables = append(data.Tables, table)
		coverage.Objects += int64(len(table.Entries))
		coverage.Bytes += int64(len(table.Entries)) * 8
	}
	if len(data.Tables) == 0 {
		return nil, coverage, fmt.Errorf("the kernel has no symbol %s", syscallTables[0])
	}
	if _, ok := c.profile.Symbol("x64_sys_call"); ok {
		data.Switch = "x64_sys_call"
	}
	return data, coverage, nil
}

// syscallEntries decodes a table; the zeros that pad it are left out.
func (c *collector) syscallEntries(name string, at mem.Virt, raw []byte) []pointer {
	cur := bin.Little(raw)
	var entries []pointer
	last := 0
	for i := range len(raw) / 8 {
		value := mem.Virt(cur.U64())
		slot := at + mem.Virt(i*8)
		entries = append(entries, c.pointer(fmt.Sprintf("%s[%d]", name, i), slot, value))
		if value != 0 {
			last = i + 1
		}
	}
	return entries[:last]
}

func judgeSyscalls(j *judging, raw json.RawMessage, out *measure.Check) error {
	var data syscallsData
	if err := decode(raw, &data); err != nil {
		return err
	}
	if j.code.err != nil {
		return j.code.err
	}
	if len(data.Tables) == 0 || data.Tables[0].Name != syscallTables[0] || len(data.Tables[0].Entries) < minSyscalls {
		return errNotObserved
	}
	for _, table := range data.Tables {
		seen := make(map[address]string)
		for i, p := range table.Entries {
			f, bad := j.syscall(p)
			if !bad && table.Name == syscallTables[0] && i < x32First && !strings.HasSuffix(j.name(p), "_ni_syscall") {
				if other, twice := seen[p.Value]; twice {
					f, bad = j.finding(p, "a function of its own", "the system call table has this function twice, also at "+other), true
				}
				seen[p.Value] = p.Path
			}
			if bad {
				out.Findings = append(out.Findings, f)
			}
		}
	}
	remarks := []string{}
	if data.Switch != "" {
		remarks = append(remarks, "this kernel dispatches through "+data.Switch+", which linux.text measures; the table is used by tracing only")
	}
	if t := j.trusts(); t != "" {
		remarks = append(remarks, t)
	}
	out.Reason = strings.Join(remarks, "; ")
	return nil
}

// syscall judges one entry.
func (j *judging) syscall(p pointer) (measure.Finding, bool) {
	expected := "a system call's function"
	if want, ok := j.expectedPointer(p.At); ok {
		if p.Value == want {
			return measure.Finding{}, false
		}
		expected = want.String()
		if name, _, ok := j.code.symbols.Lookup(uint64(want)); ok {
			expected += " (" + name + ")"
		}
	}
	if problem := j.lands(p); problem != "" {
		return j.finding(p, expected, "the system call table entry "+problem), true
	}
	if expected == "a system call's function" && isSyscallName(j.name(p)) {
		return measure.Finding{}, false
	}
	return j.finding(p, expected, "the system call table entry goes to a function that does not belong there"), true
}

// isSyscallName matches the names that SYSCALL_DEFINE gives
// (arch/x86/include/asm/syscall_wrapper.h).
func isSyscallName(name string) bool {
	for _, prefix := range []string{"__x64_sys_", "__ia32_sys_", "__ia32_compat_sys_", "__x64_compat_sys_", "__x32_compat_sys_", "sys_ni_syscall", "compat_sys_"} {
		if strings.HasPrefix(name, prefix) && !strings.Contains(name, "+") {
			return true
		}
	}
	return false
}
