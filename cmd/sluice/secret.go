package main

import (
	"fmt"
	"os"
	"strings"
)

// secretFile reads a secret without the newline that editors leave at its end.
func secretFile(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("reading a secret: %w", err)
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}
