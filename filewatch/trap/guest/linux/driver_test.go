package linux

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/trap"
)

// enter calls a function of the toy kernel.
func enter(d *Driver, k *toyKernel, name string, args ...uint64) (*trap.Record, trap.Action) {
	rec := new(trap.Record)
	action := d.Enter(hook(name), k.registers(args...), k, rec)
	return rec, action
}

func TestUnlinkNamesObjectVolumeAndActor(t *testing.T) {
	k := newKernel()
	etc := k.newDentry(k.sb, k.root, "etc", 0o040755, 10)
	file := k.newDentry(k.sb, etc, "pass\xffwd", 0o100644, 11)
	d := k.driver(nil)
	rec, action := enter(d, k, "vfs_unlink", 0, 0, file)
	if action != trap.Await {
		t.Fatalf("action %d", action)
	}
	rec.Time = 0
	task := func(pid uint32, comm string) trap.Task {
		return trap.Task{PID: pid, TID: pid, UID: 1000, RealUID: 1001, Comm: comm}
	}
	want := &trap.Record{
		Op: filewatch.OpUnlink, Actor: task(77, "shell"),
		Parent: [trap.MaxAncestors]trap.Task{task(1, "init"), task(0, "swapper")},
		Volume: trap.Volume{UUID: [16]byte([]byte("0123456789abcdef")), Type: "ext4", Name: "vda"},
		Object: trap.Inode{Address: k.inodeOf(file), Number: 11, Generation: 77, Mode: 0o100644},
		Path:   trap.Name{Path: "/etc/pass\xffwd"},
	}
	if diff := cmp.Diff(want, rec); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !d.Leave(hook("vfs_unlink"), k.registers(0, 0, file), &trap.Registers{AX: 0}, k, rec) {
		t.Error("success was dropped")
	}
	if d.Leave(hook("vfs_unlink"), k.registers(0, 0, file), &trap.Registers{AX: 0xffff_fff3}, k, rec) {
		t.Error("EACCES was taken for success")
	}
}

func TestResults(t *testing.T) {
	for ax, want := range map[uint64]bool{
		0: true, 0xdead_0000_0000: true, // an int's upper half is anyone's
		0xffff_fff3: false, ^uint64(12): false, // int and long -13
		0xffff_8880_0123_4560: true, 5: false, // a pointer; no result that is known
	} {
		if got := succeeded(ax); got != want {
			t.Errorf("%#x: %v", ax, got)
		}
	}
}

func TestMountsGiveThePath(t *testing.T) {
	k := newKernel()
	srv := k.newDentry(k.sb, k.root, "srv", 0o040755, 20)
	sb2, root2 := k.newVolume("xfs", fsRequiresDev)
	data := k.newDentry(sb2, root2, "data", 0o040755, 21)
	k.newMount(sb2, data, k.mount, srv) // a bind mount of a part: not the volume's place
	whole := k.newMount(sb2, root2, k.mount, srv)
	sb3, root3 := k.newVolume("ext4", fsRequiresDev)
	k.newMount(sb3, root3, whole, data)
	f := k.newDentry(sb3, root3, "f", 0o100644, 22)
	d := k.driver(nil)
	rec, _ := enter(d, k, "vfs_unlink", 0, 0, f)
	if rec.Path != (trap.Name{Mount: "/srv/data", Path: "/f"}) || rec.Marks != 0 {
		t.Errorf("path %+v, marks %v", rec.Path, rec.Marks)
	}
	// A volume that only another namespace has mounted.
	k.put64(whole+k.l.Mount.NS, k.alloc())
	now := clock{time.Now().Add(time.Hour)}
	d.now = now.now
	if rec, _ := enter(d, k, "vfs_rmdir", 0, 0, data); rec.Path != (trap.Name{Path: "/data"}) || rec.Marks&trap.NoMount == 0 {
		t.Errorf("path %+v, marks %v", rec.Path, rec.Marks)
	}
}

func TestFilesOfNoDiskAreLeftOut(t *testing.T) {
	k := newKernel()
	proc, root := k.newVolume("proc", 0)
	f := k.newDentry(proc, root, "f", 0o100644, 3)
	if _, action := enter(k.driver(nil), k, "vfs_unlink", 0, 0, f); action != trap.Drop {
		t.Errorf("action %d", action)
	}
	if _, action := enter(k.driver(&Options{AllVolumes: true}), k, "vfs_unlink", 0, 0, f); action != trap.Await {
		t.Errorf("with all volumes: action %d", action)
	}
}

func TestRename(t *testing.T) {
	k := newKernel()
	a := k.newDentry(k.sb, k.root, "a", 0o100644, 5)
	b := k.newDentry(k.sb, k.root, "b", 0o100644, 6)
	rd := k.alloc()
	k.put64(rd+k.l.Rename.OldDentry, a)
	k.put64(rd+k.l.Rename.NewDentry, b)
	d := k.driver(nil)
	rec, action := enter(d, k, "vfs_rename", rd)
	if action != trap.Await || rec.Op != filewatch.OpRename || rec.Path.Path != "/a" || rec.NewPath.Path != "/b" || rec.Replaced.Number != 6 {
		t.Errorf("%d %+v", action, rec)
	}
	k.put32(rd+k.l.Rename.Flags, renameExchange)
	if rec, _ = enter(d, k, "vfs_rename", rd); rec.Op != filewatch.OpExchange {
		t.Errorf("exchange: %s", rec.Op)
	}
	k.put64(b+k.l.Dentry.Inode, k.inodeOf(a))
	if _, action = enter(d, k, "vfs_rename", rd); action != trap.Drop {
		t.Error("two names of one object: the kernel does nothing, an event was made")
	}
}

func TestAttributes(t *testing.T) {
	for valid, want := range map[uint64]filewatch.Op{
		attrMode: filewatch.OpChmod, attrUID | attrKill: filewatch.OpChown, attrGID | attrMode: filewatch.OpChown,
		attrSize | 1<<5: filewatch.OpTruncate, 1 << 5: filewatch.OpUtimes, attrKill: filewatch.OpChmod, attrPriv: filewatch.OpSetACL,
	} {
		if got := attrOp(valid); got != want {
			t.Errorf("%#x: %s, want %s", valid, got, want)
		}
	}
	for name, want := range map[string]filewatch.Op{
		"user.x": filewatch.OpSetXattr, "trusted.x": filewatch.OpSetXattr, "security.capability": filewatch.OpSetACL,
		"system.posix_acl_access": filewatch.OpSetACL, "security": filewatch.OpSetXattr,
	} {
		if got := xattrOp(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func TestWritesOfAnOpenFile(t *testing.T) {
	k := newKernel()
	f := k.newDentry(k.sb, k.root, "log", 0o100644, 5)
	file := k.newFile(f, fmodeWrite)
	now := clock{time.Unix(1000, 0)}
	d := k.driver(nil)
	d.now = now.now
	if _, action := enter(d, k, "security_file_open", file); action != trap.Drop {
		t.Errorf("opening: action %d", action)
	}
	emitted, writes := 0, uint32(0)
	for range 1000 {
		rec, action := enter(d, k, "file_modified", file)
		if action == trap.Emit {
			emitted++
			writes += rec.Writes
			if rec.Stage != trap.Ongoing || rec.Path.Path != "/log" {
				t.Errorf("%+v", rec)
			}
		}
		now.t = now.t.Add(10 * time.Millisecond)
	}
	if emitted != 10 || writes > 1000 || writes < 900 {
		t.Errorf("%d records of %d writes in ten seconds, want one a second", emitted, writes)
	}
	rec, action := enter(d, k, "__fput", file)
	if action != trap.Emit || rec.Stage != trap.Closed || rec.Writes != 1000 {
		t.Errorf("close: action %d, %+v", action, rec)
	}
	if len(d.open) != 0 {
		t.Error("the closed file is remembered")
	}
}

func TestClosingWithoutAWrite(t *testing.T) {
	k := newKernel()
	f := k.newDentry(k.sb, k.root, "f", 0o100644, 5)
	seen, before := k.newFile(f, fmodeWrite), k.newFile(f, fmodeWrite)
	d := k.driver(nil)
	enter(d, k, "security_file_open", seen)
	if _, action := enter(d, k, "__fput", seen); action != trap.Drop {
		t.Error("a file that was seen opened and never written made an event")
	}
	if _, action := enter(d, k, "__fput", before); action != trap.Emit {
		t.Error("a file open since before the watch was closed in silence")
	}
	sb, root := k.newVolume("btrfs", fsRequiresDev)
	odd := k.newFile(k.newDentry(sb, root, "f", 0o100644, 6), fmodeWrite)
	enter(d, k, "security_file_open", odd)
	if _, action := enter(d, k, "__fput", odd); action != trap.Emit {
		t.Error("a family whose writes are not all seen was closed in silence")
	}
	if _, action := enter(d, k, "__fput", k.newFile(f, 1)); action != trap.Drop {
		t.Error("closing a file that was read made an event")
	}
}

func TestCreatingOpen(t *testing.T) {
	k := newKernel()
	f := k.newDentry(k.sb, k.root, "new", 0o100644, 5)
	rec, action := enter(k.driver(nil), k, "security_file_open", k.newFile(f, fmodeCreated|fmodeWrite))
	if action != trap.Emit || rec.Op != filewatch.OpCreate || rec.Object.Number != 5 {
		t.Errorf("action %d, %+v", action, rec)
	}
	if _, action := enter(k.driver(nil), k, "security_file_open", k.newFile(f, 1)); action != trap.Drop {
		t.Errorf("opening for reading: action %d", action)
	}
	if _, action := enter(k.driver(&Options{Opens: true}), k, "security_file_open", k.newFile(f, fmodeWrite)); action != trap.Check {
		t.Errorf("opening for writing with a protect rule: action %d", action)
	}
}

func TestOpenFilesAreBounded(t *testing.T) {
	k := newKernel()
	d := k.driver(nil)
	for i := range uint64(2 * maxOpen) {
		d.remember(i, openFile{})
	}
	if len(d.open) > maxOpen {
		t.Errorf("%d open files remembered", len(d.open))
	}
}

func TestRawDiskWriteIsSeen(t *testing.T) {
	k := newKernel()
	dev, root := k.newVolume("devtmpfs", 0)
	vda := k.newDentry(dev, root, "vda", modeBlock|0o600, 5)
	rec, action := enter(k.driver(nil), k, "file_update_time", k.newFile(vda, fmodeWrite))
	if action != trap.Emit || rec.Path.Path != "/vda" {
		t.Errorf("action %d, %+v", action, rec)
	}
}

func TestLook(t *testing.T) {
	k := newKernel()
	f := k.newDentry(k.sb, k.root, "f", 0o100644, 5)
	inode, mapping := k.inodeOf(f), k.alloc()
	k.put64(inode+k.l.Inode.Mapping, mapping)
	k.put32(mapping+k.l.MappingFlags, 0x11) // as the page cache makes it
	d := k.driver(nil)
	if live := d.Look(k, inode, 5, 35); !live.Cached || live.Dirty {
		t.Errorf("clean: %+v", live)
	}
	k.put32(mapping+k.l.MappingFlags, 0x11|1<<27) // XA_FLAGS_MARK(PAGECACHE_TAG_DIRTY) on 6.1
	if live := d.Look(k, inode, 5, 35); !live.Dirty {
		t.Errorf("dirty: %+v", live)
	}
	if live := d.Look(k, inode, 6, 35); live.Cached {
		t.Error("another inode was taken for the evicted one")
	}
	if live := d.Look(k, inode, 5, 36); live.Cached {
		t.Error("another generation was taken for the evicted one")
	}
}

func TestAlive(t *testing.T) {
	k := newKernel()
	d := k.driver(nil)
	if !d.Alive(k) {
		t.Error("a running kernel was taken for gone")
	}
	k.put(k.l.InitTask+k.l.Task.Comm, "another kernel")
	if d.Alive(k) {
		t.Error("another kernel was taken for the one bound")
	}
}

// What a hostile kernel may have in memory: each ends, within the limits, and
// is marked.
func TestHostileNames(t *testing.T) {
	for name, spoil := range map[string]func(k *toyKernel, f uint64){
		"parents in a circle": func(k *toyKernel, f uint64) {
			dir := k.newDentry(k.sb, f, "dir", 0o040755, 9)
			k.put64(f+k.l.Dentry.Parent, dir)
		},
		"name longer than any": func(k *toyKernel, f uint64) { k.put32(f+k.l.Dentry.Len, 1<<31) },
		"name without length":  func(k *toyKernel, f uint64) { k.put32(f+k.l.Dentry.Len, 0) },
		"name in user memory":  func(k *toyKernel, f uint64) { k.put64(f+k.l.Dentry.Name, 0x400000) },
		"parent at the end":    func(k *toyKernel, f uint64) { k.put64(f+k.l.Dentry.Parent, ^uint64(0)-4) },
		"path too long": func(k *toyKernel, f uint64) {
			for range 20 {
				dir := k.newDentry(k.sb, 0, strings.Repeat("x", 250), 0o040755, 9)
				k.put64(f+k.l.Dentry.Parent, dir)
				f = dir
			}
			k.put64(f+k.l.Dentry.Parent, k.root)
		},
	} {
		k := newKernel()
		f := k.newDentry(k.sb, k.root, "f", 0o100644, 5)
		spoil(k, f)
		rec, _ := enter(k.driver(nil), k, "vfs_unlink", 0, 0, f)
		if rec.Marks&trap.PathTruncated == 0 || len(rec.Path.Path) > trap.MaxPath {
			t.Errorf("%s: marks %v, path of %d bytes", name, rec.Marks, len(rec.Path.Path))
		}
	}
}

func TestHostileTasksAndMounts(t *testing.T) {
	k := newKernel()
	f := k.newDentry(k.sb, k.root, "f", 0o100644, 5)
	k.put(k.task+k.l.Task.Comm, "sixteen bytes!!!and on without an end")
	other := k.newTask(9, "\x00", k.task)
	k.put64(k.task+k.l.Task.RealParent, other) // each the other's parent
	k.put64(k.mount+k.l.Mount.Instance, k.mount+k.l.Mount.Instance)
	k.put64(k.mount+k.l.Mount.NS, 0)
	rec, _ := enter(k.driver(nil), k, "vfs_unlink", 0, 0, f)
	if rec.Actor.Comm != "sixteen bytes!!!" || rec.Parent[trap.MaxAncestors-1].TID == 0 || rec.Marks&trap.NoMount == 0 {
		t.Errorf("%+v", rec)
	}
}

func TestLayoutIsChecked(t *testing.T) {
	k := newKernel()
	for name, spoil := range map[string]func(*Hook){
		"kind":     func(h *Hook) { h.Kind = 99 },
		"address":  func(h *Hook) { h.Addr = 0x1000 },
		"argument": func(h *Hook) { h.Args[0] = 6 },
		"negative": func(h *Hook) { h.Args[1] = -1 },
	} {
		l := k.l
		l.Hooks = append([]Hook(nil), k.l.Hooks...)
		spoil(&l.Hooks[3])
		if _, err := NewDriver(&l, nil); err == nil {
			t.Errorf("bad %s was accepted", name)
		}
	}
}

// FuzzDriver runs every hook over memory full of plausible garbage.
func FuzzDriver(f *testing.F) {
	f.Add(uint64(1), uint64(0xffff_8880_0000_0000))
	k := newKernel()
	f.Fuzz(func(t *testing.T, seed, arg uint64) {
		d := k.driver(&Options{AllVolumes: true, Opens: true})
		mem := noise{seed}
		regs := &trap.Registers{GSBase: arg, Args: [6]uint64{arg, arg + 64, arg + 128, arg + 192}}
		for i := range k.l.Hooks {
			rec := new(trap.Record)
			if d.Enter(i, regs, mem, rec) == trap.Await {
				d.Leave(i, regs, &trap.Registers{AX: seed}, mem, rec)
			}
			b := trap.AppendRecord(nil, rec)
			if len(b) > trap.MaxRecord {
				t.Fatalf("record of %d bytes", len(b))
			}
			if _, err := trap.DecodeRecord(b); err != nil {
				t.Fatal(err)
			}
		}
		d.Look(mem, arg, seed, 0)
	})
}

func BenchmarkEnterUnlink(b *testing.B) {
	k := newKernel()
	dir := k.root
	for _, name := range []string{"usr", "share", "doc", "plumbline"} {
		dir = k.newDentry(k.sb, dir, name, 0o040755, 9)
	}
	file := k.newDentry(k.sb, dir, "README", 0o100644, 11)
	d, regs, h := k.driver(nil), k.registers(0, 0, file), hook("vfs_unlink")
	var rec trap.Record
	b.ReportAllocs()
	for b.Loop() {
		rec = trap.Record{}
		d.Enter(h, regs, k, &rec)
	}
}
