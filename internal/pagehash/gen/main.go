// Command gen writes the assembly of package pagehash: go generate ./internal/pagehash
package main

import (
	"log"
	"os"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: gen FILE")
	}
	if err := os.WriteFile(os.Args[1], Assembly(), 0o666); err != nil {
		log.Fatal(err)
	}
}
