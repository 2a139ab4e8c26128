package main

import (
	"fmt"
	"os"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// readRules reads --rules; "" is nil, which takes everything.
func readRules(path string) (*filewatch.Rules, error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fail(exitConfig, fmt.Errorf("rules: %w", err))
	}
	rules, err := filewatch.ParseRules(text)
	if err != nil {
		return nil, fail(exitConfig, fmt.Errorf("%s: %w", path, err))
	}
	return rules, nil
}
