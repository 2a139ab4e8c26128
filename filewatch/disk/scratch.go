package disk

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// scratch is where a snapshot's files are: what QEMU keeps the old content of
// blocks in, and the socket that it serves the snapshot on.
type scratch struct {
	prefix string // of the paths of all files
	owner  int    // the user QEMU runs as
	clear  func() error
}

const scratchPrefix = namePrefix + "fleece-"

// scratchFor makes a place that the QEMU of a process can write to. That of a
// domain of libvirt runs as another user, and AppArmor or SELinux have it write only
// where libvirt says; among that is a directory of the domain's own, which goes when
// it ends.
func scratchFor(pid int) (*scratch, error) {
	owner, err := fileOwner(pid)
	if err != nil {
		return nil, err
	}
	if dir := domainDir(pid); dir != "" {
		name := randomName() + "-"
		return &scratch{filepath.Join(dir, name), owner, func() error { return removeAll(dir, name) }}, nil
	}
	clearAbandoned(os.TempDir(), scratchPrefix, owner)
	for {
		dir, err := os.MkdirTemp("", scratchPrefix+"*")
		if err != nil {
			return nil, err
		}
		occupied, err := occupy(dir)
		if err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
		if occupied == nil {
			continue // taken for one that was left, before it was occupied
		}
		s := &scratch{prefix: dir + "/", owner: owner, clear: func() error { return errors.Join(os.RemoveAll(dir), occupied.Close()) }}
		if err := s.give(dir); err != nil {
			return nil, errors.Join(err, s.clear())
		}
		return s, nil
	}
}

// socket is where QEMU serves the snapshot.
func (s *scratch) socket() string { return s.prefix + "nbd" }

// overlay makes an empty image of a disk that QEMU can write to. QEMU does not make
// the file, because it would lock it, which the AppArmor profile of a domain does not
// allow there.
func (s *scratch) overlay(name string, size int64) (path string, err error) {
	path = s.prefix + name
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	return path, errors.Join(writeEmpty(f, size), f.Close(), s.give(path))
}

// give makes something QEMU's.
func (s *scratch) give(path string) error {
	if s.owner == os.Geteuid() {
		return nil
	}
	if err := os.Lchown(path, s.owner, -1); err != nil {
		return fmt.Errorf("QEMU runs as user %d: %w", s.owner, err)
	}
	return nil
}

// fileOwner is the user whose rights to files a process has (proc(5),
// /proc/PID/status: real, effective, saved and file system user).
func fileOwner(pid int) (int, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(status) {
		if ids, ok := bytes.CutPrefix(line, []byte("Uid:")); ok {
			if all := strings.Fields(string(ids)); len(all) == 4 {
				return strconv.Atoi(all[3])
			}
		}
	}
	return 0, fmt.Errorf("/proc/%d/status names no user", pid)
}

// domainDir is the directory that libvirt made for this start of a domain, "" if the
// process is none. It is named in the arguments that libvirt starts QEMU with, as
// that of the key for secrets (libvirt, src/qemu/qemu_domain.c,
// qemuDomainGetMasterKeyFilePath). Where QEMU lies it names another directory, in
// which files of random names are made and removed.
func domainDir(pid int) string {
	arguments, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return ""
	}
	for a := range strings.SplitSeq(string(arguments), "\x00") {
		path, ok := masterKey(a)
		if !ok {
			continue
		}
		dir := filepath.Dir(path)
		if info, err := os.Lstat(dir); err == nil && info.IsDir() {
			return dir
		}
	}
	return ""
}

// masterKey is the file of the key for secrets, if that is what the argument is
// about: an object in JSON, or in QEMU's older form.
func masterKey(argument string) (path string, ok bool) {
	const id = "masterKey0"
	var secret struct {
		Type string `json:"qom-type"`
		ID   string `json:"id"`
		File string `json:"file"`
	}
	if json.Unmarshal([]byte(argument), &secret) != nil {
		older, found := strings.CutPrefix(argument, "secret,id="+id+",format=raw,file=")
		if !found {
			return "", false
		}
		secret.Type, secret.ID, secret.File = "secret", id, strings.ReplaceAll(older, ",,", ",")
	}
	return secret.File, secret.Type == "secret" && secret.ID == id && filepath.IsAbs(secret.File)
}

// removeAll removes the files of a directory whose names begin with a prefix.
func removeAll(dir, prefix string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) { // the domain ended
		return nil
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			if removed := os.Remove(filepath.Join(dir, e.Name())); !errors.Is(removed, os.ErrNotExist) {
				err = errors.Join(err, removed)
			}
		}
	}
	return err
}
