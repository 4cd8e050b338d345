package project

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

const (
	canarySuffix = "-canary"
	// maxName is what a label value and a Service's name may have; the shortest limit serves for every name.
	maxName = 63
)

// canaryName is the name of an object's canary, and canaryValue the value of a rewritten label. What would be too
// long is cut and made unique again by a hash.
func canaryName(name string) string { return suffixed(name, canarySuffix) }

func canaryValue(value string) string {
	if value == "" {
		return strings.TrimPrefix(canarySuffix, "-")
	}
	return suffixed(value, canarySuffix)
}

func suffixed(s, suffix string) string {
	if len(s)+len(suffix) <= maxName {
		return s + suffix
	}
	sum := sha256.Sum256([]byte(s))
	hash := "-" + hex.EncodeToString(sum[:4])
	return strings.TrimRight(s[:maxName-len(suffix)-len(hash)], "-_.") + hash + suffix
}
