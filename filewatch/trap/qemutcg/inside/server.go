package inside

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/trap"
	"github.com/plumbline-sec/plumbline/filewatch/trap/guest/linux"
	"github.com/plumbline-sec/plumbline/filewatch/trap/qemutcg"
	"github.com/plumbline-sec/plumbline/filewatch/trap/x86"
)

// maxClients bounds the clients at one time.
const maxClients = 16

// helloTimeout is how long a client may take to say what it wants.
const helloTimeout = 10 * time.Second

// Machine is what the server needs of QEMU.
type Machine interface {
	// SetHooks replaces the addresses at which CPUs stop. CPUs go on with the
	// new ones from their next translated block at the latest.
	SetHooks(addrs []uint64)
	// Phys gives guest RAM as x86.Space wants it. It is called from the stopped
	// CPU's thread.
	Phys(addr uint64) []byte
	// Blind counts hooks that could not be placed.
	Blind() uint64
	// CPUs is the number of CPUs.
	CPUs() int
	// Problem says why nothing can be trapped; empty when all is well.
	Problem() string
}

// Server serves clients and handles stops.
type Server struct {
	machine Machine

	mu     sync.Mutex // guards all below; held for the whole of a stop
	layout []byte     // JSON of what is bound, nil when nothing is
	engine *trap.Engine
	driver *linux.Driver
	space  x86.Space
	bound  map[*session]bool
	buf    []byte
	// The kernel's own view, for looks; without Phys until a CPU has stopped.
	kernel     x86.Space
	kernelRoot uint64
	cr4        uint64

	stops uint64
	took  histogram

	clients atomic.Int32
}

// session is one bound client.
type session struct {
	*queue
	enforce *filewatch.Rules // nil when nothing is refused for this client
}

// NewServer returns a server for machine. A problem of its is told to every
// client in place of service.
func NewServer(machine Machine) *Server {
	return &Server{machine: machine, space: x86.Space{Phys: machine.Phys}, bound: make(map[*session]bool)}
}

// Listen makes the control socket at path, for this user only. A socket left by
// another run is replaced; one that is served is not.
func Listen(path string) (net.Listener, error) {
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
		if c, err := net.Dial("unix", path); err == nil {
			c.Close()
			return nil, fmt.Errorf("control socket %s is in use", path)
		}
		os.Remove(path)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Serve accepts clients until the listener closes.
func (s *Server) Serve(l net.Listener) error {
	done := make(chan struct{})
	defer close(done)
	go s.guard(done)
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			time.Sleep(100 * time.Millisecond) // out of descriptors: QEMU's business goes first
			continue
		}
		if s.clients.Add(1) > maxClients {
			s.clients.Add(-1)
			conn.Close()
			continue
		}
		go func() {
			defer s.clients.Add(-1)
			defer conn.Close()
			defer func() { recover() }() // a client's malformed input never ends QEMU
			s.client(conn)
		}()
	}
}

func (s *Server) client(conn net.Conn) {
	hello := qemutcg.Hello{Protocol: qemutcg.Protocol, PID: os.Getpid(), CPUs: s.machine.CPUs(), Problem: s.machine.Problem()}
	if qemutcg.WriteFrame(conn, qemutcg.FrameHello, hello) != nil || hello.Problem != "" {
		return
	}
	r := bufio.NewReader(conn)
	conn.SetReadDeadline(time.Now().Add(helloTimeout))
	t, payload, err := qemutcg.ReadFrame(r)
	if err != nil {
		return
	}
	conn.SetReadDeadline(time.Time{})
	if t != qemutcg.FrameBind {
		qemutcg.WriteFrame(conn, qemutcg.FrameError, qemutcg.Failure{Message: "bind comes first"})
		return
	}
	ses, err := s.bind(payload)
	if err != nil {
		qemutcg.WriteFrame(conn, qemutcg.FrameError, qemutcg.Failure{Message: err.Error()})
		return
	}
	defer s.unbind(ses)
	ses.frame(qemutcg.FrameBound, []byte("{}"))
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer conn.Close()
		defer func() { recover() }()
		s.listen(r, ses)
	}()
	s.pump(conn, ses, done)
}

// listen answers a bound client until it leaves.
func (s *Server) listen(r *bufio.Reader, ses *session) {
	for {
		t, payload, err := qemutcg.ReadFrame(r)
		if err != nil {
			return
		}
		var answer any
		switch t {
		case qemutcg.FrameStatus:
			answer = s.status(ses)
		case qemutcg.FrameLook:
			var look qemutcg.Look
			if json.Unmarshal(payload, &look) != nil {
				return
			}
			answer = qemutcg.Looked{ID: look.ID, Live: s.look(&look)}
		default:
			return
		}
		if payload, err = json.Marshal(answer); err != nil {
			return
		}
		ses.frame(t, payload)
	}
}

// look reads an object's state from the kernel's memory while CPUs run.
func (s *Server) look(l *qemutcg.Look) trap.Live {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.driver == nil || s.kernel.Phys == nil {
		return trap.Live{Cached: true, Dirty: true} // cannot be told: no CPU has stopped yet
	}
	s.kernel.Load(s.kernelRoot, s.cr4)
	return s.driver.Look(&s.kernel, l.Address, l.Inode, l.Generation)
}

// aliveEvery is how often the kernel is looked for while it is watched.
const aliveEvery = time.Second

// guard ends the watch when the kernel that is bound is gone without a reset of
// the machine: kexec starts another one at another address.
func (s *Server) guard(stop <-chan struct{}) {
	tick := time.NewTicker(aliveEvery)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		if !s.alive() {
			s.Reset()
		}
	}
}

// alive is true while the kernel is there or cannot be looked for.
func (s *Server) alive() bool {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() { recover() }()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.driver == nil || s.kernel.Phys == nil {
		return true
	}
	s.kernel.Load(s.kernelRoot, s.cr4)
	return s.driver.Alive(&s.kernel)
}

// findKernel notes where the kernel's own page tables are, for looks when no
// CPU is stopped: those of the stopped task may be gone by then.
func (s *Server) findKernel(cr4 uint64) {
	if root, ok := s.space.Translate(s.driver.PageTables()); ok {
		s.kernelRoot, s.cr4 = root, cr4
		s.kernel.Phys = s.machine.Phys
	}
}

// pump writes what is queued until the client leaves.
func (s *Server) pump(conn net.Conn, ses *session, done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case <-ses.wake:
		}
		frames, lost := ses.take()
		if len(frames) > 0 {
			if _, err := conn.Write(frames); err != nil {
				return
			}
		}
		if lost.Through > 0 && qemutcg.WriteFrame(conn, qemutcg.FrameLost, lost) != nil {
			return
		}
	}
}

// bind puts the hooks in place for a client, or joins those that are.
func (s *Server) bind(payload []byte) (*session, error) {
	var b qemutcg.Bind
	if err := json.Unmarshal(payload, &b); err != nil {
		return nil, fmt.Errorf("read bind: %w", err)
	}
	if b.Linux == nil {
		return nil, errors.New("bind names no guest kernel")
	}
	ses := &session{queue: newQueue()}
	if b.Enforce != "" {
		rules, err := filewatch.ParseRules([]byte(b.Enforce))
		if err != nil {
			return nil, fmt.Errorf("read bind: %w", err)
		}
		ses.enforce = rules
	}
	layout, err := json.Marshal(b.Linux)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.layout != nil && !bytes.Equal(s.layout, layout) {
		return nil, errors.New("another client watches with another view of the guest's kernel")
	}
	if s.engine == nil {
		driver, err := linux.NewDriver(b.Linux, &b.Options)
		if err != nil {
			return nil, err
		}
		s.layout, s.driver, s.engine = layout, driver, trap.NewEngine(driver)
		s.engine.Deny = s.denied
		s.stops, s.took = 0, histogram{}
	}
	s.bound[ses] = true
	s.widen(b.Options)
	s.machine.SetHooks(s.engine.Addresses())
	return ses, nil
}

// widen makes the driver see what any bound client asks for.
func (s *Server) widen(opts linux.Options) {
	for other := range s.bound {
		opts.Opens = opts.Opens || other.enforce != nil
	}
	s.driver.Widen(opts)
}

func (s *Server) unbind(ses *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.bound, ses)
	if len(s.bound) == 0 {
		s.clear()
	}
}

func (s *Server) clear() {
	s.layout, s.engine, s.driver, s.kernel.Phys = nil, nil, nil, nil
	s.machine.SetHooks(nil)
}

// Reset is called when the machine was reset: the kernel is gone.
func (s *Server) Reset() {
	defer func() { recover() }()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.engine == nil {
		return
	}
	for ses := range s.bound {
		ses.frame(qemutcg.FrameReset, []byte("{}"))
	}
	s.clear()
}

// Stop handles a CPU stopped at regs.PC. With deny the function that is about
// to run must not: the CPU goes on at ret, where it was called, as if it had
// refused. It is called from the CPU's own thread.
func (s *Server) Stop(cpu uint32, regs *trap.Registers) (ret uint64, deny bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	s.mu.Lock()
	defer s.mu.Unlock()
	begin := time.Now()
	defer func() {
		if p := recover(); p != nil {
			s.giveUp(p)
		}
	}()
	if s.engine == nil {
		return 0, false // hooks taken away a moment ago
	}
	s.space.Load(regs.CR3, regs.CR4)
	if s.kernel.Phys == nil {
		s.findKernel(regs.CR4)
	}
	out := s.engine.Stop(regs, &s.space, func(rec *trap.Record) {
		rec.CPU = cpu
		s.buf = trap.AppendRecord(s.buf[:0], rec)
		for ses := range s.bound {
			ses.push(s.buf)
		}
	})
	if out.Learnt != 0 {
		s.machine.SetHooks(s.engine.Addresses())
	}
	s.stops++
	s.took.add(time.Since(begin))
	return out.Return, out.Deny
}

// giveUp ends the watch after a panic, with the machine running on.
func (s *Server) giveUp(p any) {
	payload, _ := json.Marshal(qemutcg.Failure{Message: fmt.Sprintf("internal error, the watch ended: %v", p)})
	for ses := range s.bound {
		ses.frame(qemutcg.FrameError, payload)
	}
	s.clear()
}

// denied asks the clients' rules. The path decides: what else a rule may ask of
// an object holds, as for any object of which only the path is known.
func (s *Server) denied(rec *trap.Record) bool {
	for ses := range s.bound {
		if ses.enforce == nil {
			continue
		}
		names := []string{rec.Path.String()}
		if rec.NewPath.Path != "" {
			names = append(names, rec.NewPath.String())
		}
		if ses.enforce.MatchNames(names, nil).Level == filewatch.Protect {
			return true
		}
	}
	return false
}

func (s *Server) status(ses *session) qemutcg.Status {
	st := qemutcg.Status{Blind: s.machine.Blind()}
	st.Records, st.Lost = ses.counts()
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Stops, st.StopNanos = s.stops, uint64(s.took.median())
	if s.engine != nil {
		st.Hooks, st.Unsettled = len(s.engine.Addresses()), s.engine.Dropped()
	}
	return st
}
