package qmp

import (
	"context"
	"errors"
	"net"
	"syscall"
	"testing"
	"time"
)

// Where as many wait for the monitor as QEMU lets wait, one more waits for its turn, and
// says that others have it where that does not come.
func TestDialWhereOthersWait(t *testing.T) {
	path, _ := startQEMU(t)
	holder, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	var waiting []net.Conn
	for {
		conn, err := net.Dial("unix", path)
		if errors.Is(err, syscall.EAGAIN) {
			break
		}
		if err != nil || len(waiting) > 1000 {
			t.Fatalf("%d wait, then %v", len(waiting), err)
		}
		waiting = append(waiting, conn)
	}
	short, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := Dial(short, path); !errors.Is(err, ErrBusy) {
		t.Errorf("a client too many: %v, want ErrBusy", err)
	}
	go func() {
		time.Sleep(100 * time.Millisecond) // most likely after the first try, which fails
		for _, conn := range waiting {
			conn.Close()
		}
		holder.Close()
	}()
	last, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatalf("once the others have left: %v", err)
	}
	last.Close()
}
