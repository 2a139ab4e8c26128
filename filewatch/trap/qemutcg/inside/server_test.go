package inside

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/trap"
	"github.com/plumbline-sec/plumbline/filewatch/trap/guest/linux"
	"github.com/plumbline-sec/plumbline/filewatch/trap/qemutcg"
)

// The guest of these tests is one page that is every structure at once: task,
// file, dentry, inode and super block, each field at its own offset and every
// pointer leading back to the page.
const (
	page    = 0xffff_8880_0000_0000
	fput    = 0xffff_ffff_8100_0000
	mkdir   = 0xffff_ffff_8100_1000
	inodeNo = 4711
)

type guest struct {
	mu    sync.Mutex
	ram   []byte
	hooks []uint64
	panic bool
	not   string // why nothing can be trapped
}

func newGuest() *guest {
	g := &guest{ram: make([]byte, 0x4000)}
	put := func(addr, v uint64) { binary.LittleEndian.PutUint64(g.ram[addr:], v) }
	put(0x1000+273*8, 0x2000|1) // PML4
	put(0x2000, 0x3000|1)       // PDPT
	put(0x3000, 0x80|1)         // one 2 MiB page at 0
	for off := uint64(8); off < 0x80; off += 8 {
		put(off, page)
	}
	put(0x80, 0o100644) // mode
	put(0x88, inodeNo)
	put(0x90, 2) // f_mode: FMODE_WRITE
	copy(g.ram[0x400:], "swapper/0")
	return g
}

func layout() *linux.Layout {
	l := &linux.Layout{Hooks: []linux.Hook{
		{Kind: linux.FinalPut, Addr: fput}, {Kind: linux.Mkdir, Addr: mkdir},
	}}
	l.CurrentTask, l.InitTask = 0x8, page+0x400
	l.PageTables = page + 0x1000
	l.File.Dentry, l.File.Inode, l.File.Mode = 0x10, 0x18, 0x90
	l.Dentry.Parent, l.Dentry.SB, l.Dentry.Inode = 0x20, 0x28, 0x30
	l.Inode.SB, l.Inode.Mode, l.Inode.Ino = 0x38, 0x80, 0x88
	l.Inode.Mapping, l.MappingFlags = 0x40, 0x200
	l.Task.RealParent, l.Task.Cred = 0x48, 0x50
	return l
}

func (g *guest) SetHooks(addrs []uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hooks = slices.Sorted(slices.Values(addrs))
}

func (g *guest) hooked() []uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.hooks
}

func (g *guest) Phys(addr uint64) []byte {
	if g.panic {
		panic("no such memory")
	}
	if addr >= uint64(len(g.ram)) {
		return nil
	}
	return g.ram[addr:]
}

func (g *guest) Blind() uint64   { return 3 }
func (g *guest) CPUs() int       { return 2 }
func (g *guest) Problem() string { return g.not }

func registers(pc uint64) *trap.Registers {
	return &trap.Registers{PC: pc, SP: page + 0x300, GSBase: page, CR3: 0x1000, Args: [6]uint64{page, page, page}}
}

// serve runs a server on a socket.
func serve(t *testing.T, g *guest) (*Server, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "trap.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(g)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		l.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s, path
}

func bound(t *testing.T, path string, enforce *filewatch.Rules) *qemutcg.Conn {
	t.Helper()
	c, err := qemutcg.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.Bind(t.Context(), layout(), linux.Options{AllVolumes: true}, enforce); err != nil {
		t.Fatal(err)
	}
	return c
}

// eventually waits for what another goroutine will do.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for range 1000 {
		if holds() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("%s: not in five seconds", what)
}

var errEnough = errors.New("enough")

// take reads n records.
func take(t *testing.T, c *qemutcg.Conn, n int) (all []*trap.Record) {
	t.Helper()
	err := c.Records(t.Context(), func(r *trap.Record) error {
		if all = append(all, r); len(all) == n {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) {
		t.Fatalf("%d of %d records, then %v", len(all), n, err)
	}
	return all
}

func TestStopsReachEachClientNumbered(t *testing.T) {
	g := newGuest()
	s, path := serve(t, g)
	a, b := bound(t, path, nil), bound(t, path, nil)
	if got := g.hooked(); !slices.Equal(got, []uint64{fput, mkdir}) {
		t.Fatalf("hooks %#x", got)
	}
	for range 3 {
		s.Stop(1, registers(fput))
	}
	for _, c := range []*qemutcg.Conn{a, b} {
		for i, r := range take(t, c, 3) {
			if r.Sequence != uint64(i+1) || r.CPU != 1 || r.Op != filewatch.OpWrite || r.Object.Number != inodeNo {
				t.Errorf("%+v", r)
			}
		}
	}
	a.Close()
	eventually(t, "one client left", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.bound) == 1 })
	if len(g.hooked()) == 0 {
		t.Error("the hooks went with the first of two clients")
	}
	b.Close()
	eventually(t, "hooks gone with the last client", func() bool { return len(g.hooked()) == 0 })
	if _, deny := s.Stop(0, registers(fput)); deny {
		t.Error("a late stop was refused")
	}
}

func TestReturnIsHookedBeforeTheCPUGoesOn(t *testing.T) {
	g := newGuest()
	s, path := serve(t, g)
	bound(t, path, nil)
	const ret = 0xffff_ffff_8200_0000
	binary.LittleEndian.PutUint64(g.ram[0x300:], ret)
	s.Stop(0, registers(mkdir))
	if !slices.Contains(g.hooked(), ret) {
		t.Errorf("hooks %#x", g.hooked())
	}
}

func TestClientThatDoesNotReadLosesVisibly(t *testing.T) {
	g := newGuest()
	s, path := serve(t, g)
	c := bound(t, path, nil)
	const n = 60000
	for range n {
		s.Stop(0, registers(fput))
	}
	next, lost, got := uint64(1), uint64(0), uint64(0)
	err := c.Records(t.Context(), func(r *trap.Record) error {
		if r.Op == filewatch.OpUnknown { // all up to here have come or are lost
			if lost += r.Sequence + 1 - next; r.Sequence == n {
				return errEnough
			}
		} else {
			lost += r.Sequence - next
			got++
		}
		next = r.Sequence + 1
		return nil
	})
	if !errors.Is(err, errEnough) || lost == 0 || got+lost != n {
		t.Errorf("%d records and %d lost of %d; %v", got, lost, n, err)
	}
}

func TestLook(t *testing.T) {
	g := newGuest()
	s, path := serve(t, g)
	c := bound(t, path, nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	records := make(chan *trap.Record, 1)
	go func() {
		done <- c.Records(ctx, func(r *trap.Record) error { records <- r; return nil })
	}()
	if live, err := c.Look(ctx, &trap.Inode{Address: page, Number: inodeNo}); err != nil || !live.Dirty {
		t.Errorf("before any stop: %+v, %v; want to be told to wait", live, err)
	}
	s.Stop(0, registers(fput))
	r := <-records
	if live, err := c.Look(ctx, &r.Object); err != nil || !live.Cached || live.Dirty {
		t.Errorf("clean: %+v, %v", live, err)
	}
	s.mu.Lock()
	g.ram[0x203] = 0x08
	s.mu.Unlock()
	if live, err := c.Look(ctx, &r.Object); err != nil || !live.Dirty {
		t.Errorf("dirty: %+v, %v", live, err)
	}
	cancel()
	<-done
	if _, err := c.Look(t.Context(), &r.Object); !errors.Is(err, qemutcg.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

func TestProtectRulesRefuse(t *testing.T) {
	rules, err := filewatch.ParseRules([]byte("[[rule]]\npath = \"/\"\nlevel = \"protect\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	g := newGuest()
	s, path := serve(t, g)
	const ret = 0xffff_ffff_8200_0000
	binary.LittleEndian.PutUint64(g.ram[0x300:], ret)
	plain := bound(t, path, nil)
	if _, deny := s.Stop(0, registers(mkdir)); deny {
		t.Error("refused without a rule")
	}
	c := bound(t, path, rules)
	if at, deny := s.Stop(0, registers(mkdir)); !deny || at != ret {
		t.Errorf("refused %v, to go on at %#x", deny, at)
	}
	if r := take(t, c, 1)[0]; r.Marks&trap.Denied == 0 {
		t.Errorf("%+v", r)
	}
	c.Close()
	eventually(t, "the rule left with its client", func() bool { _, deny := s.Stop(0, registers(mkdir)); return !deny })
	plain.Close()
}

func TestResetTellsEveryClient(t *testing.T) {
	g := newGuest()
	s, path := serve(t, g)
	c := bound(t, path, nil)
	s.Stop(0, registers(fput))
	s.Reset()
	n := 0
	if err := c.Records(t.Context(), func(*trap.Record) error { n++; return nil }); !errors.Is(err, trap.ErrReset) || n != 1 {
		t.Errorf("%d records, %v", n, err)
	}
	if len(g.hooked()) != 0 {
		t.Error("hooks outlived the kernel")
	}
	c.Close()
	bound(t, path, nil) // the next kernel can be bound at once
}

func TestKexecEndsTheWatch(t *testing.T) {
	g := newGuest()
	s, path := serve(t, g)
	c := bound(t, path, nil)
	s.Stop(0, registers(fput))
	if !s.alive() {
		t.Fatal("the kernel is there and was not found")
	}
	s.mu.Lock()
	copy(g.ram[0x400:], "something else")
	s.mu.Unlock()
	if err := c.Records(t.Context(), func(*trap.Record) error { return nil }); !errors.Is(err, trap.ErrReset) {
		t.Errorf("error %v", err)
	}
}

func TestPanicEndsTheWatchOnly(t *testing.T) {
	g := newGuest()
	s, path := serve(t, g)
	c := bound(t, path, nil)
	g.panic = true
	s.Stop(0, registers(fput))
	err := c.Records(t.Context(), func(*trap.Record) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "internal error") {
		t.Errorf("error %v", err)
	}
	if len(g.hooked()) != 0 {
		t.Error("hooks outlived the panic")
	}
}

func TestProblemIsToldToEachClient(t *testing.T) {
	g := newGuest()
	g.not = "this QEMU does not offer tb_flush"
	_, path := serve(t, g)
	if _, err := qemutcg.Dial(t.Context(), path); !errors.Is(err, trap.ErrNotSupported) || !strings.Contains(err.Error(), "tb_flush") {
		t.Errorf("error %v", err)
	}
}

func TestBindsThatAreRefused(t *testing.T) {
	g := newGuest()
	_, path := serve(t, g)
	bound(t, path, nil)
	other := layout()
	other.CurrentTask = 0x10
	bad := layout()
	bad.Hooks[0].Addr = 1
	for name, bind := range map[string]any{
		"no kernel":      qemutcg.Bind{},
		"another kernel": qemutcg.Bind{Linux: other},
		"bad layout":     qemutcg.Bind{Linux: bad},
		"bad rules":      qemutcg.Bind{Linux: layout(), Enforce: "nonsense ="},
		"no object":      "text",
	} {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		r := bufio.NewReader(conn)
		if ft, _, err := qemutcg.ReadFrame(r); ft != qemutcg.FrameHello || err != nil {
			t.Fatalf("%d, %v", ft, err)
		}
		if err := qemutcg.WriteFrame(conn, qemutcg.FrameBind, bind); err != nil {
			t.Fatal(err)
		}
		ft, payload, err := qemutcg.ReadFrame(r)
		var f qemutcg.Failure
		if ft != qemutcg.FrameError || err != nil || json.Unmarshal(payload, &f) != nil || f.Message == "" {
			t.Errorf("%s: frame %d %q, %v", name, ft, payload, err)
		}
		if _, _, err := qemutcg.ReadFrame(r); err != io.EOF {
			t.Errorf("%s: the connection stays: %v", name, err)
		}
	}
	if len(g.hooked()) == 0 {
		t.Error("a refused client took the hooks away")
	}
}

func TestSocketIsPrivateAndNotTakenFromAnother(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if _, err := Listen(path); err == nil {
		t.Error("took a socket that is served")
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if l, err = Listen(path); err != nil {
		t.Errorf("a socket left by another run: %v", err)
	} else {
		l.Close()
	}
	if err := os.WriteFile(path, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); err == nil {
		t.Error("replaced a file that is no socket")
	}
}

func BenchmarkStop(b *testing.B) {
	g := newGuest()
	s := NewServer(g)
	payload, err := json.Marshal(qemutcg.Bind{Linux: layout(), Options: linux.Options{AllVolumes: true}})
	if err != nil {
		b.Fatal(err)
	}
	ses, err := s.bind(payload)
	if err != nil {
		b.Fatal(err)
	}
	regs := registers(fput)
	b.ReportAllocs()
	for b.Loop() {
		s.Stop(0, regs)
		if len(ses.bytes) > queueBytes/2 {
			ses.take()
		}
	}
}
