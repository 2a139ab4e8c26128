package check_test

import "github.com/plumbline-sec/plumbline/measure/check"

// accepted remembers pages in memory.
type accepted map[check.PageKey]bool

func (a accepted) Accepted(key check.PageKey) bool { return a[key] }
func (a accepted) Accept(key check.PageKey)        { a[key] = true }
