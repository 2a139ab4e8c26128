package graph

import (
	"testing"

	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/measure/kernel"
)

// deferredTypes are those of what is called later: callbacks of RCU, one of which is
// part of a variable, one of an object that has a function beside it; and calls to a
// CPU.
func deferredTypes(more ...btf.Type) func() (*btf.Spec, error) {
	return func() (*btf.Spec, error) {
		function := &btf.Pointer{Target: &btf.FuncProto{Return: (*btf.Void)(nil)}}
		number := &btf.Int{Name: "unsigned int", Size: 4}
		member := func(name string, at btf.Bits, t btf.Type) btf.Member {
			return btf.Member{Name: name, Type: t, Offset: at * 8}
		}
		head := &btf.Struct{Name: "callback_head", Size: 16}
		head.Members = []btf.Member{member("next", 0, &btf.Pointer{Target: head}), member("func", 8, function)}
		tasks := &btf.Struct{Name: "rcu_tasks", Size: 24, Members: []btf.Member{member("cbs_head", 0, &btf.Pointer{Target: head}), member("own", 8, head)}}
		owner := &btf.Struct{Name: "owner", Size: 24, Members: []btf.Member{member("head", 0, head), member("destroy", 16, function)}}
		link := &btf.Struct{Name: "__call_single_node", Size: 16, Members: []btf.Member{
			member("llist", 0, &btf.Pointer{Target: (*btf.Void)(nil)}), member("u_flags", 8, number)}}
		call := &btf.Struct{Name: "__call_single_data", Size: 24, Members: []btf.Member{member("node", 0, link), member("func", 16, function)}}
		work := &btf.Struct{Name: "irq_work", Size: 24, Members: call.Members}
		void := &btf.Pointer{Target: (*btf.Void)(nil)}
		list := &btf.Struct{Name: "list_head", Size: 16, Members: []btf.Member{member("next", 0, void), member("prev", 8, void)}}
		item := &btf.Struct{Name: "kthread_work", Size: 24, Members: []btf.Member{member("node", 0, list), member("func", 16, function)}}
		worker := &btf.Struct{Name: "kthread_worker", Size: 16, Members: []btf.Member{member("work_list", 0, list)}}
		thread := &btf.Struct{Name: "kthread", Size: 16, Members: []btf.Member{member("threadfn", 0, function), member("data", 8, void)}}
		task := &btf.Struct{Name: "task_struct", Size: 16, Members: []btf.Member{member("flags", 0, number), member("worker_private", 8, void)}}
		segments := &btf.Struct{Name: "rcu_segcblist", Size: 8, Members: []btf.Member{member("head", 0, &btf.Pointer{Target: head})}}
		data := &btf.Struct{Name: "rcu_data", Size: 16, Members: []btf.Member{member("cblist", 8, segments)}}
		return makeSpec(append(more, data, tasks, owner, call, work, item, worker, thread, task)...)
	}
}

// thread makes a task with a worker, to which the function belongs that it runs.
func (f *fixture) thread(flags uint64, function string) {
	root := f.global("init_task")
	f.put(root, flags)
	f.put(root+8, heap)
	f.symbols = append(f.symbols, kernel.Symbol{Addr: text + 128, Kind: 't', Name: function})
	f.put(heap, text+128)
	f.put(heap+8, heap+0x100)
	f.link(heap+0x100, heap+0x200)
	f.put(heap+0x200+16, text)
}

// What is called later is on lists that end with an empty pointer. A callback that is
// on none holds what it was last used for.
func TestDeferredCalls(t *testing.T) {
	tests := map[string]struct {
		build func(*fixture)
		want  map[string]uint64
	}{
		"callbacks that wait for RCU": {
			func(f *fixture) {
				root := f.global("rcu_tasks")
				f.put(root, heap)
				f.put(root+16, text+3) // not queued
				f.put(heap, heap+0x100)
				f.put(heap+8, text)
				f.put(heap+0x108, text+64)
			},
			map[string]uint64{"rcu_tasks.cbs_head[0].func": text, "rcu_tasks.cbs_head[1].func": text + 64},
		},
		"callbacks of a CPU, whose variables BTF does not have": {
			func(f *fixture) {
				f.put(f.global("rcu_data")+8, heap)
				f.put(heap+8, text)
			},
			map[string]uint64{"cpu 0 rcu_data.cblist.head[0].func": text},
		},
		"work in an interrupt": {
			func(f *fixture) {
				f.put(f.global("lazy_list"), heap)
				f.put(heap+16, text)
			},
			map[string]uint64{"cpu 0 lazy_list[0].func": text},
		},
		"calls to another CPU, and a task to be woken": {
			func(f *fixture) {
				f.put(f.global("call_single_queue"), heap)
				for i, flags := range []uint64{0x31, 0x11, 0x20} {
					at := heap + uint64(i)*0x100
					f.put(at, at+0x100)
					f.put(at+8, flags)
					f.put(at+16, text+uint64(i))
				}
				f.put(heap+0x200, 0)
			},
			map[string]uint64{"cpu 0 call_single_queue[1].func": text + 1, "cpu 0 call_single_queue[2].func": text + 2},
		},
		"work of a thread of the kernel": {
			func(f *fixture) { f.thread(kernelThread, "kthread_worker_fn") },
			map[string]uint64{"init_task.worker_private->data->work_list[0].func": text},
		},
		"a thread of the kernel that does something else": {
			func(f *fixture) { f.thread(kernelThread, "other") },
			map[string]uint64{},
		},
		"a process, in which the member is something else": {
			func(f *fixture) { f.thread(0, "kthread_worker_fn") },
			map[string]uint64{},
		},
		"a list that leads to itself": {
			func(f *fixture) {
				f.put(f.global("lazy_list"), heap)
				f.put(heap, heap)
				f.put(heap+16, text)
			},
			map[string]uint64{"cpu 0 lazy_list[0].func": text},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFixture()
			f.types = deferredTypes()
			f.put(f.global("nr_cpu_ids"), 1)
			f.put(f.global("__per_cpu_offset"), 0)
			tt.build(f)
			if diff := cmp.Diff(tt.want, found(f.walk(t))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A queued callback is looked at alone: the object that the allocator has there may
// have been given up, and have other things in its members by now.
func TestCallbacksAlone(t *testing.T) {
	f := newFixture().slabs(nil)
	f.types = deferredTypes(append(allocatorTypes(member{"cpu_slab", 0, 8}), structure("kmem_cache_cpu", 32, member{"freelist", 0, 8}, member{"slab", 16, 8}))...)
	f.Write(theCache+0x800-base, []byte("owner\x00")...)
	f.put(f.global("rcu_tasks"), theSlab)
	f.put(theSlab+8, text)
	f.put(theSlab+16, text+3)
	if diff := cmp.Diff(map[string]uint64{"rcu_tasks.cbs_head[0].func": text}, found(f.walk(t))); diff != "" {
		t.Error(diff)
	}
}
