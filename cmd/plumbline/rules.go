package main

import (
	"fmt"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/internal/bin"
)

// maxText bounds the files that people write: rules, policies, keys, tokens.
const maxText = 16 << 20

// readRules reads --rules; "" is nil, which takes everything.
func readRules(path string) (*filewatch.Rules, error) {
	if path == "" {
		return nil, nil
	}
	text, err := bin.ReadFile(path, maxText)
	if err != nil {
		return nil, fail(exitConfig, fmt.Errorf("rules: %w", err))
	}
	rules, err := filewatch.ParseRules(text)
	if err != nil {
		return nil, fail(exitConfig, fmt.Errorf("%s: %w", path, err))
	}
	return rules, nil
}
