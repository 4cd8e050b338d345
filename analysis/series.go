package analysis

import (
	"regexp"
	"slices"
	"strings"
)

// Series names the series of one workload in the answer to a query about many: the two labels and their values.
type Series struct {
	NamespaceLabel, Namespace string
	WorkloadLabel, Workload   string
}

// Among fills in the workloads that the query of a check with a Series is asked for. The answer may hold others too: every
// namespace is asked for every workload.
func Among(query string, series []Series) string {
	var namespaces, workloads []string
	for _, s := range series {
		namespaces, workloads = append(namespaces, s.Namespace), append(workloads, s.Workload)
	}
	return strings.NewReplacer("{{ namespaces }}", oneOf(namespaces), "{{ workloads }}", oneOf(workloads)).Replace(query)
}

// oneOf is a regular expression for some values, as it stands in a double-quoted string of PromQL. Prometheus looks values
// up that are plain names, and matches nothing.
func oneOf(values []string) string {
	values = slices.Compact(slices.Sorted(slices.Values(values)))
	for i, v := range values {
		values[i] = regexp.QuoteMeta(v)
	}
	return strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`).Replace(strings.Join(values, "|"))
}
