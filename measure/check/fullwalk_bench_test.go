//go:build bench

package check_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/paging"
)

// fullWalk finds processes and modules as tools for memory forensics do (the
// plugins pslist, psscan, lsmod, check_modules and hidden_modules of volatility3):
// lists are walked field by field, each field translated anew through all levels
// of page tables; then all of RAM is searched for what looks like a task, and all
// of the area of modules for what looks like a module. It is written plainly, in
// the same language as what it is compared with.
type fullWalk struct {
	memory  mem.Reader
	profile *kernel.Profile
	space   *paging.Space
	offsets map[string]mem.Virt
	err     error
}

func newFullWalk(t *testing.T, memory mem.Reader, regs []mem.Registers) *fullWalk {
	t.Helper()
	profile, err := kernel.NewProfile(memory, regs)
	if err != nil {
		t.Fatal(err)
	}
	return &fullWalk{memory: memory, profile: profile, space: profile.Space, offsets: make(map[string]mem.Virt)}
}

// at is the offset of a member; the types stand still, so they are asked once.
func (w *fullWalk) at(structure string, path ...string) mem.Virt {
	key := structure
	for _, name := range path {
		key += "." + name
	}
	if off, ok := w.offsets[key]; ok {
		return off
	}
	off, err := w.profile.Types.Offset(structure, path...)
	w.err = errors.Join(w.err, err)
	w.offsets[key] = mem.Virt(off)
	return mem.Virt(off)
}

func (w *fullWalk) symbol(name string) mem.Virt {
	at, ok := w.profile.Symbol(name)
	if !ok {
		w.err = errors.Join(w.err, errors.New("no symbol "+name))
	}
	return at
}

func (w *fullWalk) word(at mem.Virt) mem.Virt {
	v, err := w.space.U64(at)
	w.err = errors.Join(w.err, err)
	return mem.Virt(v)
}

// list walks a struct list_head and gives its entries.
func (w *fullWalk) list(head mem.Virt) []mem.Virt {
	var out []mem.Virt
	for at := w.word(head); at != head && w.err == nil && len(out) < 1<<16; at = w.word(at) {
		out = append(out, at)
	}
	return out
}

type walkedTask struct {
	pid  uint32
	comm string
}

func (w *fullWalk) task(at mem.Virt) walkedTask {
	pid, err1 := w.space.U32(at + w.at("task_struct", "pid"))
	comm, err2 := w.space.CString(at+w.at("task_struct", "comm"), 16)
	w.err = errors.Join(w.err, err1, err2)
	return walkedTask{pid, comm}
}

// listedTasks are the threads of all processes.
func (w *fullWalk) listedTasks() map[mem.Virt]walkedTask {
	out := make(map[mem.Virt]walkedTask)
	for _, at := range w.list(w.symbol("init_task") + w.at("task_struct", "tasks")) {
		leader := at - w.at("task_struct", "tasks")
		signal := w.word(leader + w.at("task_struct", "signal"))
		for _, thread := range w.list(signal + w.at("signal_struct", "thread_head")) {
			thread -= w.at("task_struct", "thread_node")
			out[thread] = w.task(thread)
		}
	}
	return out
}

// scannedTasks searches RAM for tasks by what each has a pointer to: one of the
// scheduler's classes.
func (w *fullWalk) scannedTasks(t *testing.T) (found []walkedTask) {
	t.Helper()
	var classes []uint64
	for _, name := range []string{"stop_sched_class", "dl_sched_class", "rt_sched_class", "fair_sched_class", "idle_sched_class"} {
		classes = append(classes, uint64(w.symbol(name)))
	}
	class, pidAt, commAt := w.at("task_struct", "sched_class"), w.at("task_struct", "pid"), w.at("task_struct", "comm")
	size, err := w.profile.Types.Size("task_struct")
	if err != nil {
		t.Fatal(err)
	}
	block, task := make([]byte, 1<<20), make([]byte, size)
	for _, e := range w.memory.Extents() {
		for at := e.Start; at < e.End(); at += mem.Phys(len(block)) {
			b := block[:min(uint64(len(block)), uint64(e.End()-at))]
			if err := w.memory.ReadPhys(b, at); err != nil {
				t.Fatal(err)
			}
			for i := 0; i+8 <= len(b); i += 8 {
				if !slices.Contains(classes, binary.LittleEndian.Uint64(b[i:])) {
					continue
				}
				start := at + mem.Phys(i) - mem.Phys(class)
				if w.memory.ReadPhys(task, start) != nil {
					continue
				}
				pid := binary.LittleEndian.Uint32(task[pidAt:])
				comm, _, ended := bytes.Cut(task[commAt:commAt+16], []byte{0})
				if ended && len(comm) > 0 && pid <= 4<<20 {
					found = append(found, walkedTask{pid, string(comm)})
				}
			}
		}
	}
	return found
}

// modules are those of the list, of sysfs, and of a search through the area
// where modules lie for structures that point to themselves.
func (w *fullWalk) modules() (listed, objects, scanned map[mem.Virt]string) {
	listed, objects, scanned = make(map[mem.Virt]string), make(map[mem.Virt]string), make(map[mem.Virt]string)
	name := func(at mem.Virt) string {
		s, err := w.space.CString(at+w.at("module", "name"), 56)
		w.err = errors.Join(w.err, err)
		return s
	}
	for _, at := range w.list(w.symbol("modules")) {
		at -= w.at("module", "list")
		listed[at] = name(at)
	}
	for _, at := range w.list(w.word(w.symbol("module_kset")) + w.at("kset", "list")) {
		at -= w.at("kobject", "entry") + w.at("module_kobject", "kobj")
		if owner := w.word(at + w.at("module_kobject", "mod")); owner != 0 {
			objects[owner] = name(owner)
		}
	}
	self := w.at("module", "mkobj", "mod")
	const first, last mem.Virt = 0xffff_ffff_a000_0000, 0xffff_ffff_ff00_0000
	var page [mem.PageSize]byte
	for at := first; at < last; at += mem.PageSize {
		if w.space.Read(page[:], at) != nil {
			continue
		}
		for i := 0; i < len(page); i += 8 {
			candidate := mem.Virt(binary.LittleEndian.Uint64(page[i:]))
			if candidate == at+mem.Virt(i)-self && candidate >= first {
				scanned[candidate] = name(candidate)
			}
		}
	}
	return listed, objects, scanned
}
