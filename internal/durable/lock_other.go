//go:build !unix

package durable

import "os"

// lock does nothing here: no agent runs on such a system, only a verifier, which
// has no spool.
func lock(*os.File) error { return nil }

func unlock(f *os.File) error { return f.Close() }
