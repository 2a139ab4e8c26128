//go:build lab

package volumetest

// defaultVariants is the fixed number of "make test".
const defaultVariants = 500
