// Package vm joins what is measured of a virtual machine from outside with what
// is seen of its files: packages that do not know each other (measure,
// filewatch, baseline) meet here, for the agent and for the commands alike.
package vm
