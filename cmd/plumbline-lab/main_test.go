package main

import (
	"context"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"plumbline-lab": func() { os.Exit(run(context.Background(), os.Args[1:])) },
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata"})
}

func TestEveryCommandHasAnExample(t *testing.T) {
	root := rootCommand()
	for _, command := range append(root.Commands(), root) {
		if command.Example == "" {
			t.Errorf("%s has no example", command.Name())
		}
	}
}

func TestParseSize(t *testing.T) {
	tests := map[string]int64{"512M": 512 << 20, "4G": 4 << 30, "4096": 4096, "": 0, "G": 0, "-1G": 0, "1T": 0, "9999999999G": 0}
	for text, want := range tests {
		got, err := parseSize(text)
		if got != want || (err == nil) != (want != 0) {
			t.Errorf("parseSize(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
}
