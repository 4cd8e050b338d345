package analysis

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// namespaceLabels are those by which metrics say which namespace they are of: of what Kubernetes runs, of Istio's, and of what
// the usual ways to scrape make of a label that was there already.
var namespaceLabels = []string{
	"namespace", "exported_namespace", "kubernetes_namespace", "k8s_namespace_name",
	"destination_workload_namespace", "destination_service_namespace", "source_workload_namespace",
}

// ownOnly makes a query see one namespace: each of its selectors has a label that says so, or is given one. A selector that asks
// for another is an error, and so is what can't be parsed. Functions that are experimental count as such: some of them select
// series that nobody sees in the query.
func ownOnly(query, namespace string) (string, error) {
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(query)
	if err != nil {
		var all parser.ParseErrors
		if errors.As(err, &all) && len(all) > 0 {
			err = &all[0]
		}
		return "", fmt.Errorf("it is no PromQL: %s", Line(err.Error()))
	}
	changed := false
	var fault error
	parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
		v, selects := n.(*parser.VectorSelector)
		if !selects || fault != nil {
			return fault
		}
		var added *labels.Matcher
		if added, fault = lacking(v, namespace); added != nil {
			v.LabelMatchers = append(v.LabelMatchers, added)
			changed = true
		}
		return fault
	})
	if fault != nil || !changed {
		return query, fault
	}
	return expr.String(), nil
}

// lacking is the matcher that keeps a selector to a namespace; nil: it has one.
func lacking(v *parser.VectorSelector, namespace string) (*labels.Matcher, error) {
	label := "namespace"
	if strings.HasPrefix(v.Name, "istio_") {
		label = "destination_workload_namespace"
	}
	var fault error
	for _, m := range v.LabelMatchers {
		if !slices.Contains(namespaceLabels, m.Name) || m.Type != labels.MatchEqual && m.Type != labels.MatchRegexp {
			continue
		}
		switch {
		case m.Value == namespace: // none of a name's characters means anything to a regular expression
			return nil, nil
		case m.Matches(namespace):
			label = m.Name
		default:
			fault = fmt.Errorf("it asks for namespace %q, and may see %q alone, as agent.yaml has not set allow.queries to any", Line(m.Value), namespace)
		}
	}
	if fault != nil {
		return nil, fault
	}
	return labels.MustNewMatcher(labels.MatchEqual, label, namespace), nil
}
