//go:build !lab

package volumetest

const defaultVariants = 40
