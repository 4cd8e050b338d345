package environments

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// secretAddress is where jx finds a secret that it puts in place of a value before Helm sees it: vault:path:key, or
// local:path:key. A host such as db.local:5432, and an image of a registry local:5000, are none.
var secretAddress = regexp.MustCompile(`(?:^|[^\w.-])vault:[-\w./]+:[-\w.]+|^local:[A-Za-z_][-\w./]*:[-\w.]+$`)

// addressFault is of the first value that is the address of a secret: left as it is, the address would become the password. Its
// Line counts from 0.
func addressFault(text []byte, values map[string]any) *Fault {
	if !strings.Contains(string(text), "vault:") && !strings.Contains(string(text), "local:") {
		return nil
	}
	at := findAddress(values, nil)
	if at == nil {
		return nil
	}
	return &Fault{
		Line: max(lineOf(text, at)-1, 0), Field: strings.Join(at, "."),
		Problem:  "is an address of a secret that jx replaces, which Sluice does not support",
		Expected: "the name of a Secret that is already in the cluster",
	}
}

// findAddress is the path of the first such value; nil when there is none.
func findAddress(v any, at fieldPath) fieldPath {
	switch v := v.(type) {
	case string:
		if secretAddress.MatchString(v) {
			return slices.Clone(at)
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			if found := findAddress(v[key], append(at, key)); found != nil {
				return found
			}
		}
	case []any:
		for i, e := range v {
			if found := findAddress(e, append(at, "["+strconv.Itoa(i)+"]")); found != nil {
				return found
			}
		}
	}
	return nil
}
