package lab

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// holder is a process of the lab's that sleeps with one file open.
type holder struct {
	task uint64 // struct task_struct
	file uint64 // struct file
	room uint64 // a page of its memory, in the kernel's direct map
}

// holdScript starts a process with file descriptor 3 open, and an environment
// that fills a whole page with the letter A.
const holdScript = `set -e
	[ -e %[1]s ] || : > %[1]s
	PAD=$(head -c 12288 /dev/zero | tr '\0' A) sleep 86400 3< %[1]s <&- >&- 2>&- &
	echo $! > /run/lab-holder`

const holdUndo = `kill $(cat /run/lab-holder) || true
	rm -f /run/lab-holder /run/lab-forged`

// hold starts a process that has a file open.
func (c *change) hold(ctx context.Context, file string) (h holder, err error) {
	if err := c.shell(ctx, fmt.Sprintf(holdScript, file), holdUndo); err != nil {
		return h, err
	}
	out, err := c.machine.Shell(ctx, "cat /run/lab-holder")
	if err != nil {
		return h, err
	}
	pid, err := strconv.ParseUint(strings.TrimSpace(out), 10, 32)
	if err != nil {
		return h, err
	}
	if h.task, err = c.task(ctx, pid); err != nil {
		return h, err
	}
	table, err := c.follow(ctx, h.task, "task_struct.files", "files_struct.fdt", "fdtable.fd")
	if err != nil {
		return h, err
	}
	files, err := c.mem.readWord(table)
	if err != nil {
		return h, err
	}
	if h.file, err = c.mem.readWord(files + 8*3); err != nil {
		return h, err
	}
	h.room, err = c.page(ctx, h.task)
	return h, err
}

// task finds a process by its number.
func (c *change) task(ctx context.Context, pid uint64) (uint64, error) {
	tasks, err1 := c.offset(ctx, "task_struct", "tasks")
	number, err2 := c.offset(ctx, "task_struct", "pid")
	at, err3 := c.symbols(ctx, "init_task")
	if err := errors.Join(err1, err2, err3); err != nil {
		return 0, err
	}
	for entry, err := c.mem.readWord(at[0] + tasks); entry != at[0]+tasks; entry, err = c.mem.readWord(entry) {
		if err != nil {
			return 0, err
		}
		var raw [4]byte
		if err := c.mem.read(entry-tasks+number, raw[:]); err != nil {
			return 0, err
		}
		if uint64(binary.LittleEndian.Uint32(raw[:])) == pid {
			return entry - tasks, nil
		}
	}
	return 0, fmt.Errorf("no process %d", pid)
}

// page returns a page that a holder's environment fills, by its address in the
// kernel's direct map.
func (c *change) page(ctx context.Context, task uint64) (uint64, error) {
	start, err1 := c.follow(ctx, task, "task_struct.mm", "mm_struct.env_start")
	top, err2 := c.follow(ctx, task, "task_struct.mm", "mm_struct.pgd")
	at, err3 := c.symbols(ctx, "page_offset_base")
	if err := errors.Join(err1, err2, err3); err != nil {
		return 0, err
	}
	env, err1 := c.mem.readWord(start)
	pgd, err2 := c.mem.readWord(top)
	direct, err3 := c.mem.readWord(at[0])
	if err := errors.Join(err1, err2, err3); err != nil {
		return 0, err
	}
	// The page after the one where it begins is full of it.
	entries, err := c.mem.walkFrom(pgd-direct, env&^0xfff+0x2000)
	if err != nil {
		return 0, err
	}
	leaf := entries[len(entries)-1]
	room := direct + leaf.value&entryAddress
	seen := make([]byte, 4096)
	if leaf.value&entryPresent == 0 || leaf.shift != 12 {
		return 0, fmt.Errorf("the environment of the process is not in memory")
	}
	if err := c.mem.read(room, seen); err != nil {
		return 0, err
	}
	if !bytes.Equal(seen, bytes.Repeat([]byte("A"), len(seen))) {
		return 0, fmt.Errorf("the page at %#x is not the environment", room)
	}
	return room, nil
}

// follow returns where the last of a path of members ("type.member") is, of
// which all but the last are pointers.
func (c *change) follow(ctx context.Context, at uint64, path ...string) (uint64, error) {
	for i, step := range path {
		structure, member, _ := strings.Cut(step, ".")
		offset, err := c.offset(ctx, structure, member)
		if err != nil {
			return 0, err
		}
		at += offset
		if i == len(path)-1 {
			break
		}
		if at, err = c.mem.readWord(at); err != nil {
			return 0, err
		}
	}
	return at, nil
}

// forge copies the table that a slot points to, changes one of its functions,
// and points the slot at the copy.
func (c *change) forge(ctx context.Context, slot, room uint64, table, function string) error {
	offset, err := c.offset(ctx, table, function)
	if err != nil {
		return err
	}
	at, err := c.symbols(ctx, pointerTarget)
	if err != nil {
		return err
	}
	from, err := c.mem.readWord(slot)
	if err != nil {
		return err
	}
	copied := make([]byte, 512) // more than any of these tables has
	if err := c.mem.read(from, copied); err != nil {
		return err
	}
	size, err := c.size(table)
	if err != nil {
		return err
	}
	copied = copied[:min(size, len(copied))]
	binary.LittleEndian.PutUint64(copied[offset:], at[0])
	if err := c.write(ctx, room, copied); err != nil {
		return err
	}
	return c.write(ctx, slot, word(room))
}

// plant makes an object of zeros whose first word is first, with one function,
// and points a slot at it. The object starts with another, of which it is a
// part, if into says how far.
func (c *change) plant(ctx context.Context, slot, room, first, function uint64, structure, member string, into ...uint64) error {
	offset, err := c.offset(ctx, structure, member)
	if err != nil {
		return err
	}
	for _, n := range into {
		offset += n
	}
	object := make([]byte, 512)
	binary.LittleEndian.PutUint64(object, first)
	binary.LittleEndian.PutUint64(object[offset:], function)
	if err := c.write(ctx, room, object); err != nil {
		return err
	}
	return c.write(ctx, slot, word(room))
}
