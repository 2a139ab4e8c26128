// Package layout holds the import rules of the repository as a test.
//
// The rules are drawn in docs/architecture.md; the test reads the real graph
// from "go list", so a forbidden arrow fails the build the day it appears.
package layout
