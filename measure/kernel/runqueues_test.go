package kernel

import (
	"errors"
	"slices"
	"testing"

	"github.com/cilium/ebpf/btf"

	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/mem/memtest"
	"github.com/plumbline-sec/plumbline/measure/paging"
)

// A kernel of one CPU, whose types have what is read of them and little else.
const (
	queuesBase  = 0xffff_ffff_8000_0000 // physical 0, mapped by one page of 1 GiB
	queuesTable = queuesBase + 0x10_0000
	queuesCount = queuesBase + 0x10_1000
	queuesRQ    = queuesBase + 0x20_0000
	queuesTask  = queuesBase + 0x30_0000 // the first of eight, of a page each
	queuesGroup = queuesBase + 0x40_0000 // struct rt_rq

	rqFair, rqRealTime, rqDeadline, rqStop, rqRunnable, rqServer, rqSize  = 16, 64, 128, 136, 144, 160, 256
	taskFair, taskRealTime, taskDeadline, taskRunnable, taskGroup, taskID = 64, 128, 192, 256, 144, 8
)

// queuesTypes are as of 6.12; less leaves members out.
func queuesTypes(t testing.TB, less ...string) *Types {
	t.Helper()
	make := func(name string, size uint32, members ...btf.Member) *btf.Struct {
		members = slices.DeleteFunc(members, func(m btf.Member) bool { return slices.Contains(less, name+"."+m.Name) })
		return &btf.Struct{Name: name, Size: size, Members: members}
	}
	member := func(name string, at btf.Bits, of btf.Type) btf.Member {
		return btf.Member{Name: name, Type: of, Offset: at * 8}
	}
	void := &btf.Pointer{Target: (*btf.Void)(nil)}
	number, word := &btf.Int{Name: "int", Size: 4}, &btf.Int{Name: "long", Size: 8}
	list := make("list_head", 16, member("next", 0, void), member("prev", 8, void))
	node := make("rb_node", 24, member("__rb_parent_color", 0, word), member("rb_right", 8, void), member("rb_left", 16, void))
	root := make("rb_root_cached", 8, member("rb_root", 0, make("rb_root", 8, member("rb_node", 0, void))))
	prio := make("rt_prio_array", 32, member("queue", 0, &btf.Array{Type: list, Index: word, Nelems: 2}))
	entity := make("sched_rt_entity", 24, member("run_list", 0, list), member("my_q", 16, void))
	deadline := make("sched_dl_entity", 24, member("rb_node", 0, node))
	rq := make("rq", rqSize, member("curr", 0, void), member("cfs_tasks", rqFair, list),
		member("rt", rqRealTime, make("rt_rq", 32, member("active", 0, prio))),
		member("dl", rqDeadline, make("dl_rq", 8, member("root", 0, root))), member("stop", rqStop, void),
		member("scx", rqRunnable, make("scx_rq", 16, member("runnable_list", 0, list))), member("fair_server", rqServer, deadline))
	task := make("task_struct", 4096, member("pid", taskID, number), member("tgid", taskID+4, number),
		member("comm", 16, &btf.Array{Type: &btf.Int{Name: "char", Size: 1}, Index: word, Nelems: 16}),
		member("tasks", 32, list), member("thread_node", 48, list),
		member("se", taskFair, make("sched_entity", 16, member("group_node", 0, list))),
		member("rt", taskRealTime, entity), member("dl", taskDeadline, deadline),
		member("scx", taskRunnable, make("sched_ext_entity", 16, member("runnable_node", 0, list))),
		member("signal", 280, void), member("pid_links", 288, list))
	return typesOf(t, rq, task, make("signal_struct", 16, member("thread_head", 0, list)))
}

// queuesMemory has empty queues and eight tasks, of the numbers 1 to 8.
type queuesMemory struct{ memtest.Pages }

func newQueuesMemory() queuesMemory {
	m := queuesMemory{make(memtest.Pages)}
	m.WriteU64(0x1000+511*8, 0x2000|3)
	m.WriteU64(0x2000+510*8, 0x83)
	m.put(queuesTable, 0)
	m.put(queuesCount, 1)
	for _, head := range []uint64{queuesRQ + rqFair, queuesRQ + rqRealTime, queuesRQ + rqRealTime + 16,
		queuesRQ + rqRunnable, queuesGroup, queuesGroup + 16} {
		m.list(head)
	}
	for i := range uint64(8) {
		m.put(task(int(i+1))+taskID, (i+1)<<32|(i+1))
	}
	return m
}

// put writes words to a virtual address.
func (m queuesMemory) put(at uint64, words ...uint64) {
	for i, w := range words {
		m.WriteU64(mem.Phys(at-queuesBase+8*uint64(i)), w)
	}
}

func (m queuesMemory) list(all ...uint64) {
	for i, at := range all {
		m.put(at, all[(i+1)%len(all)], all[(i+len(all)-1)%len(all)])
	}
}

// node writes a struct rb_node, a black one.
func (m queuesMemory) node(at, parent, right, left uint64) { m.put(at, parent|1, right, left) }

func task(pid int) uint64 { return queuesTask + uint64(pid-1)*mem.PageSize }

func (m queuesMemory) profile(types *Types) *Profile {
	return &Profile{Base: queuesBase, Space: paging.SpaceAt(m, 0x1000, 4), Types: types,
		Symbols: NewSymbols([]Symbol{{queuesTable, 'd', "__per_cpu_offset"}, {queuesCount, 'd', "nr_cpu_ids"}, {queuesRQ, 'd', "runqueues"}})}
}

const (
	fairHead, realTimeHead, runnableHead = queuesRQ + rqFair, queuesRQ + rqRealTime, queuesRQ + rqRunnable
	deadlineRoot                         = queuesRQ + rqDeadline
	noMemory                             = queuesBase + 0x3000_0000
)

// TestQueuedTasks finds what each class has queued, by each way to be queued
// there, and says of a queue that is none why it is not read.
func TestQueuedTasks(t *testing.T) {
	for name, tt := range map[string]struct {
		class string
		write func(queuesMemory)
		less  []string
		want  []int32
		err   error // mem.ErrNotMapped and others
	}{
		"fair":                {class: "fair", write: func(m queuesMemory) { m.list(fairHead, task(2)+taskFair) }, want: []int32{2}},
		"real-time":           {class: "real-time", write: func(m queuesMemory) { m.list(realTimeHead, task(1)+taskRealTime, task(3)+taskRealTime) }, want: []int32{1, 3}},
		"of another priority": {class: "real-time", write: func(m queuesMemory) { m.list(realTimeHead+16, task(4)+taskRealTime) }, want: []int32{4}},
		"in a group": {class: "real-time", want: []int32{6, 5}, write: func(m queuesMemory) {
			m.list(realTimeHead, task(6)+taskRealTime, queuesGroup+0x800)
			m.put(queuesGroup+0x800+16, queuesGroup)
			m.list(queuesGroup+16, task(5)+taskRealTime)
		}},
		"without groups": {class: "real-time", less: []string{"sched_rt_entity.my_q"}, want: []int32{6}, write: func(m queuesMemory) {
			m.list(realTimeHead, task(6)+taskRealTime)
			m.put(task(6)+taskGroup, queuesGroup) // is something else there
		}},
		"a list that loops": {class: "real-time", err: ErrListBroken, write: func(m queuesMemory) {
			m.list(realTimeHead, task(1)+taskRealTime, task(2)+taskRealTime)
			m.put(task(2)+taskRealTime, task(1)+taskRealTime)
		}},
		"a list that leaves memory": {class: "real-time", err: mem.ErrNotMapped, write: func(m queuesMemory) { m.put(realTimeHead, noMemory) }},
		"a group in itself": {class: "real-time", err: ErrListTooLong, write: func(m queuesMemory) {
			m.list(realTimeHead, queuesGroup+0x800)
			m.list(queuesGroup, queuesGroup+0x900)
			m.put(queuesGroup+0x800+16, queuesGroup)
			m.put(queuesGroup+0x900+16, queuesGroup)
		}},
		"a group that leaves memory": {class: "real-time", err: mem.ErrNotMapped, write: func(m queuesMemory) {
			m.list(realTimeHead, queuesGroup+0x800)
			m.put(queuesGroup+0x800+16, noMemory)
		}},
		"deadline": {class: "deadline", want: []int32{7, 8, 1}, write: func(m queuesMemory) {
			m.put(deadlineRoot, task(7)+taskDeadline)
			m.node(task(7)+taskDeadline, 0, task(1)+taskDeadline, task(8)+taskDeadline)
			m.node(task(8)+taskDeadline, task(7)+taskDeadline, 0, 0)
			m.node(task(1)+taskDeadline, task(7)+taskDeadline, 0, 0)
		}},
		"a server is no task": {class: "deadline", want: []int32{3}, write: func(m queuesMemory) {
			m.put(deadlineRoot, queuesRQ+rqServer)
			m.node(queuesRQ+rqServer, 0, 0, task(3)+taskDeadline)
			m.node(task(3)+taskDeadline, queuesRQ+rqServer, 0, 0)
		}},
		"a tree that loops": {class: "deadline", err: ErrListBroken, write: func(m queuesMemory) {
			m.put(deadlineRoot, task(7)+taskDeadline)
			m.node(task(7)+taskDeadline, 0, 0, task(8)+taskDeadline)
			m.node(task(8)+taskDeadline, task(7)+taskDeadline, task(7)+taskDeadline, 0)
		}},
		"a tree with one child twice": {class: "deadline", err: ErrListBroken, write: func(m queuesMemory) {
			m.put(deadlineRoot, task(7)+taskDeadline)
			m.node(task(7)+taskDeadline, 0, task(8)+taskDeadline, task(8)+taskDeadline)
			m.node(task(8)+taskDeadline, task(7)+taskDeadline, 0, 0)
		}},
		"a tree that leaves memory": {class: "deadline", err: mem.ErrNotMapped, write: func(m queuesMemory) { m.put(deadlineRoot, noMemory) }},
		"stop":                      {class: "stop", write: func(m queuesMemory) { m.put(queuesRQ+rqStop, task(8)) }, want: []int32{8}},
		"a stop task of nowhere":    {class: "stop", write: func(m queuesMemory) { m.put(queuesRQ+rqStop, noMemory) }, err: mem.ErrNotMapped},
		"extensible":                {class: "extensible", write: func(m queuesMemory) { m.list(runnableHead, task(5)+taskRunnable) }, want: []int32{5}},
		"an extensible loop": {class: "extensible", err: ErrListBroken, write: func(m queuesMemory) {
			m.list(runnableHead, task(5)+taskRunnable)
			m.put(task(5)+taskRunnable, task(5)+taskRunnable)
		}},
		"types unknown": {class: "real-time", less: []string{"sched_rt_entity.run_list"}, write: func(queuesMemory) {}, err: ErrNoMember},
	} {
		m := newQueuesMemory()
		tt.write(m)
		queues, err := m.profile(queuesTypes(t, tt.less...)).QueuedTasks()
		if err != nil || len(queues) != 5 {
			t.Errorf("%s: %d classes, %v", name, len(queues), err)
		}
		for _, q := range queues {
			var got []int32
			for _, task := range q.Tasks {
				got = append(got, task.PID)
			}
			switch {
			case q.Class != tt.class && (got != nil || q.Err != nil):
				t.Errorf("%s: %s class has %v, %v", name, q.Class, got, q.Err)
			case q.Class == tt.class && (!errors.Is(q.Err, tt.err) || tt.err == nil && !slices.Equal(got, tt.want)):
				t.Errorf("%s: %v, %v, want %v, %v", name, got, q.Err, tt.want, tt.err)
			}
		}
	}
}

// A kernel without a class is no error, nor is a CPU that has not made its lists.
func TestQueuedTasksOfOtherKernels(t *testing.T) {
	m := newQueuesMemory()
	m.put(fairHead, 0, 0)
	m.put(realTimeHead, 0, 0)
	queues, err := m.profile(queuesTypes(t, "rq.scx", "task_struct.scx")).QueuedTasks()
	if err != nil || len(queues) != 4 {
		t.Fatalf("%d classes, %v", len(queues), err)
	}
	for _, q := range queues {
		if q.Class == "extensible" || q.Err != nil || q.Tasks != nil {
			t.Errorf("%+v", q)
		}
	}
}

// FuzzQueuedTasks reads queues out of any memory: it ends, and never with more
// tasks than a system can have.
func FuzzQueuedTasks(f *testing.F) {
	f.Add(words(fairHead, fairHead), words(0, 1<<32|1), uint64(rqFair))
	f.Add(words(task(1)+taskDeadline), words(1, 0, 0), uint64(rqDeadline))
	f.Add(words(task(1)+taskRealTime, task(1)+taskRealTime), words(realTimeHead, realTimeHead, queuesRQ+rqRealTime), uint64(rqRealTime))
	types := queuesTypes(f)
	f.Fuzz(func(t *testing.T, queue, first []byte, at uint64) {
		m := newQueuesMemory()
		m.Write(mem.Phys(queuesRQ-queuesBase+at%rqSize), queue[:min(len(queue), rqSize)]...)
		m.Write(mem.Phys(task(1)-queuesBase+taskRealTime), first[:min(len(first), 512)]...)
		queues, err := m.profile(types).QueuedTasks()
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range queues {
			if len(q.Tasks) > maxTasks {
				t.Errorf("%s: %d tasks", q.Class, len(q.Tasks))
			}
		}
	})
}
