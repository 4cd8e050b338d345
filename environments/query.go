package environments

import (
	"fmt"
	"slices"
	"strings"
	"text/template/parse"
)

// Said is what a chart says of its app's policy.
type Said struct {
	// Values are the app's coalesced values.
	Values map[string]any
	// Canary is the Canary object among the app's objects; nil: there is none.
	Canary map[string]any
	// MetricTemplates are those among the app's objects.
	MetricTemplates []map[string]any
}

// surroundings are what a policy's metrics refer to. A decoder without them can't know, and takes a reference for right.
type surroundings struct {
	namespace string
	// canary is the name of the Canary object that is read; empty: the policy stands elsewhere.
	canary    string
	templates []map[string]any
}

// template finds a MetricTemplate; without a namespace it is one of the app's.
func (s *surroundings) template(ref templateRef) map[string]any {
	for _, t := range s.templates {
		m, _ := t["metadata"].(map[string]any)
		namespace, _ := m["namespace"].(string)
		if m["name"] == ref.name && orDefault(namespace, s.namespace) == orDefault(ref.namespace, s.namespace) {
			return t
		}
	}
	return nil
}

// templateRef names a MetricTemplate.
type templateRef struct{ name, namespace string }

func (r templateRef) String() string {
	if r.namespace == "" {
		return "MetricTemplate " + shown(r.name)
	}
	return "MetricTemplate " + shown(r.name) + " in namespace " + shown(r.namespace)
}

var templateRefFields = fields[templateRef]{
	"name":      set(asText, func(to *templateRef) *string { return &to.name }, "Its name.").needed(),
	"namespace": set(asText, func(to *templateRef) *string { return &to.namespace }, "Its namespace.").or("the app's"),
}

// metricTemplate is the spec of a MetricTemplate.
type metricTemplate struct{ query, provider string }

var metricTemplateFields = fields[metricTemplate]{
	"query":    set(asText, func(to *metricTemplate) *string { return &to.query }, "PromQL with Flagger's variables.").needed(),
	"provider": inside(metricProviderFields, func(to *metricTemplate) *metricTemplate { return to }, "The metrics provider."),
}

// elsewhere is why a MetricTemplate's provider says nothing: which Prometheus is asked, and with which credentials, is the operator's
// to say.
const elsewhere = "the operator sets the Prometheus in agent.yaml"

var metricProviderFields = fields[metricTemplate]{
	"type":               set(asText, func(to *metricTemplate) *string { return &to.provider }, "`prometheus`; others are refused by name.").needed(),
	"address":            ignored[metricTemplate](elsewhere),
	"secretRef":          ignored[metricTemplate](elsewhere),
	"region":             ignored[metricTemplate](elsewhere),
	"insecureSkipVerify": ignored[metricTemplate](elsewhere),
	"headers":            ignored[metricTemplate](elsewhere),
}

// template is the query of the MetricTemplate that a metric names; empty: that is not known, or it has a fault.
func (d *decoder) template(at fieldPath, ref templateRef) string {
	if d.around == nil {
		return ""
	}
	object := d.around.template(ref)
	if object == nil {
		d.fail(at, "names "+ref.String()+", which the chart does not render", "a MetricTemplate of the chart, or a query")
		return ""
	}
	var t metricTemplate
	inner := decoder{}
	decodeObject(&inner, fieldPath{"spec"}, object["spec"], metricTemplateFields, &t)
	for _, f := range inner.faults {
		d.fail(at, fmt.Sprintf("%s: %s %s", ref, f.path, f.fault.Problem), f.fault.Expected)
	}
	for _, path := range inner.ignored {
		d.ignored = append(d.ignored, fmt.Sprintf("%s: %s", ref, path))
	}
	switch {
	case len(inner.faults) > 0:
	case t.provider != "prometheus":
		d.fail(at, fmt.Sprintf("%s asks %s, which is not supported yet", ref, shown(t.provider)), "spec.provider.type prometheus")
	case strings.TrimSpace(t.query) == "":
		d.fail(at, ref.String()+" has no query", "a query in its spec")
	default:
		return t.query
	}
	return ""
}

// queryVariables may stand in a query; the analysis fills them in.
var queryVariables = []string{"interval", "name", "namespace", "service", "target"}

// foreignVariables are Flagger's names of objects to which a policy can't refer here.
var foreignVariables = map[string]string{"ingress": "ingressRef", "route": "routeRef"}

// query reads a query, which is a Go template with Flagger's variables, into one with queryVariables alone. What could not be
// asked is refused: that should be known before a canary waits for its answer.
func (d *decoder) query(at fieldPath, text string, variables map[string]string) string {
	tree := parse.New("query")
	tree.Mode = parse.SkipFuncCheck
	if _, err := tree.Parse(text, "", "", map[string]*parse.Tree{}); err != nil {
		d.fail(at, "is no template: "+strings.TrimPrefix(err.Error(), "template: query:"), "variables such as {{ target }}")
		return ""
	}
	q := query{d: d, at: at, variables: variables}
	for _, n := range tree.Root.Nodes {
		q.add(n)
	}
	return q.out.String()
}

// query is one while it is being read.
type query struct {
	d         *decoder
	at        fieldPath
	variables map[string]string
	out       strings.Builder
}

func (q *query) add(n parse.Node) {
	if text, ok := n.(*parse.TextNode); ok {
		q.out.Write(text.Text)
		return
	}
	name, key := variable(n)
	known := slices.Concat(queryVariables, []string{"variables.NAME"})
	switch {
	case name == "":
		q.d.fail(q.at, "has "+shown(n.String()), "variables alone, such as {{ target }} or {{ variables.NAME }}")
	case name == "variables":
		q.own(key)
	case name == "name" && q.d.around != nil && q.d.around.canary != "":
		q.verbatim("the name of the Canary object", q.d.around.canary)
	case slices.Contains(queryVariables, name):
		q.out.WriteString("{{ " + name + " }}")
	case foreignVariables[name] != "":
		q.d.fail(q.at, "has the variable "+shown(name)+" of "+foreignVariables[name]+", which is not supported yet", oneOf(known))
	default:
		q.d.fail(q.at, "has the unknown variable "+shown(name), oneOf(known))
	}
}

// own writes one of the metric's own templateVariables. It stands as it is written, since it may be a piece of a query.
func (q *query) own(key string) {
	value, said := q.variables[key]
	if !said {
		q.d.fail(q.at, "has the variable "+shown(key)+", which is not set", "templateVariables with "+shown(key))
		return
	}
	q.verbatim("the variable "+shown(key), value)
}

func (q *query) verbatim(what, value string) {
	if strings.Contains(value, "{{") {
		q.d.fail(q.at, what+" has a {{", "no variables in it")
		return
	}
	q.out.WriteString(value)
}

// variable is what an action of a template stands for: the name of a variable, or variables and a key of it, as
// {{ variables.key }} or {{ index variables "key" }}. Empty: something else.
func variable(n parse.Node) (name, key string) {
	action, ok := n.(*parse.ActionNode)
	if !ok || len(action.Pipe.Decl) > 0 || len(action.Pipe.Cmds) != 1 {
		return "", ""
	}
	args := action.Pipe.Cmds[0].Args
	switch first := args[0].(type) {
	case *parse.ChainNode:
		of, _ := first.Node.(*parse.IdentifierNode)
		if len(args) == 1 && of != nil && of.Ident == "variables" && len(first.Field) == 1 {
			return of.Ident, first.Field[0]
		}
	case *parse.IdentifierNode:
		if len(args) == 1 && first.Ident != "variables" {
			return first.Ident, ""
		}
		if len(args) == 3 && first.Ident == "index" {
			of, _ := args[1].(*parse.IdentifierNode)
			index, _ := args[2].(*parse.StringNode)
			if of != nil && of.Ident == "variables" && index != nil {
				return of.Ident, index.Text
			}
		}
	}
	return "", ""
}
