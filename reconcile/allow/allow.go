// Package allow is what an operator lets an environment touch: in which namespaces, of which kinds that live in none, from
// which chart repositories. A repository can't widen it. It is asked twice, before a release begins and before an object is
// sent to the API server; the second is the wall, the first is for people.
//
// It is pure.
package allow

import (
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/sluice-cd/sluice/render/objects"
)

// Any in a list allows everything.
const Any = "*"

// Names and types of what Sluice keeps in the cluster for itself.
const (
	// StateType is the type of Secrets that hold states, and StatePrefix what their names begin with.
	StateType   = "sluice.dev/state.v1"
	StatePrefix = "sluice."
	// LeasePrefix is what the names of Leases begin with.
	LeasePrefix = "sluice-"

	helmType   = "helm.sh/release.v1"
	helmPrefix = "sh.helm.release.v1."
)

// Rules of one environment. The zero value allows nothing.
type Rules struct {
	// Own is the environment's namespace, as the operator has it.
	Own string
	// Namespaces that it may touch besides.
	Namespaces []string
	// ClusterKinds that live in no namespace, as Kind or Kind.group.
	ClusterKinds []string
	// ChartRepositories are the URLs below which charts may come from; nil: everywhere.
	ChartRepositories []string
	// Webhooks that its policies may have asked: hosts, hosts with a port, or URLs below which they are; nil: none.
	Webhooks []string
	// AnyQuery: queries of its policies may ask for other namespaces than their app's.
	AnyQuery bool
}

// Everything is allowed.
var Everything = Rules{Namespaces: []string{Any}, ClusterKinds: []string{Any}, Webhooks: []string{Any}, AnyQuery: true}

// Error says what is not allowed, by which rule.
type Error struct {
	// What, such as "ClusterRoleBinding pwn".
	What string
	// Rule in agent.yaml, such as "allow.clusterKinds", and what it would have to hold; Rule is empty for what no rule can
	// allow, and then Holds says why.
	Rule, Holds string
}

func (e *Error) Error() string {
	if e.Rule == "" {
		return fmt.Sprintf("%s is not allowed: %s", e.What, e.Holds)
	}
	return fmt.Sprintf("%s is not allowed by agent.yaml, %s; it would have to hold %s", e.What, e.Rule, e.Holds)
}

// Object refuses an object that the environment may not touch; clusterWide: its kind lives in no namespace.
func (r Rules) Object(o *unstructured.Unstructured, clusterWide bool) error {
	gk := o.GroupVersionKind().GroupKind()
	what := gk.Kind + " " + o.GetName()
	if kept := reserved(gk, o); kept != "" {
		return &Error{What: what, Holds: kept}
	}
	if clusterWide {
		if !slices.ContainsFunc(r.ClusterKinds, func(k string) bool { return k == Any || k == gk.Kind || k == gk.String() }) {
			return &Error{What: what, Rule: "allow.clusterKinds", Holds: gk.String()}
		}
		return nil
	}
	if !r.inside(o.GetNamespace()) {
		return &Error{What: what + " in namespace " + o.GetNamespace(), Rule: "allow.namespaces", Holds: o.GetNamespace()}
	}
	return nil
}

// Namespace refuses one that the environment may not touch.
func (r Rules) Namespace(name string) error {
	if r.inside(name) {
		return nil
	}
	return &Error{What: "namespace " + name, Rule: "allow.namespaces", Holds: name}
}

func (r Rules) inside(namespace string) bool {
	return namespace == r.Own || slices.Contains(r.Namespaces, namespace) || slices.Contains(r.Namespaces, Any)
}

// reserved says what an object would be mistaken for; empty: nothing of ours, nor of Helm's. Whoever writes a state, or the
// record of a release, decides what other apps serve.
func reserved(gk schema.GroupKind, o *unstructured.Unstructured) string {
	switch {
	case gk.Group == "coordination.k8s.io" && gk.Kind == "Lease" && strings.HasPrefix(o.GetName(), LeasePrefix):
		return "it is Sluice's own, which elects its leader by it"
	case gk != objects.Secret:
		return ""
	}
	kind, _, _ := unstructured.NestedString(o.Object, "type")
	switch {
	case kind == StateType, strings.HasPrefix(o.GetName(), StatePrefix):
		return "it is Sluice's own, which keeps the state of an app there"
	case kind == helmType, strings.HasPrefix(o.GetName(), helmPrefix), o.GetLabels()["owner"] == "helm":
		return "it would be taken for the Helm record of a release"
	}
	return ""
}

// Repository refuses a chart repository.
func (r Rules) Repository(address string) error {
	if r.ChartRepositories == nil ||
		slices.ContainsFunc(r.ChartRepositories, func(prefix string) bool { return prefix == Any || below(prefix, address) }) {
		return nil
	}
	return &Error{What: "chart repository " + address, Rule: "allow.chartRepositories", Holds: address + " or a folder above it"}
}

// Webhook refuses the address of a webhook, of which no more than the host is told.
func (r Rules) Webhook(name, address string) error {
	u, err := url.Parse(address)
	if err == nil && slices.ContainsFunc(r.Webhooks, func(allowed string) bool {
		return allowed == Any || strings.EqualFold(allowed, u.Host) || strings.EqualFold(allowed, u.Hostname()) || below(allowed, address)
	}) {
		return nil
	}
	host := "its host"
	if err == nil {
		host = u.Host
	}
	return &Error{What: "webhook " + name, Rule: "allow.webhooks", Holds: host}
}

// below reports whether an address is a prefix, or is in a folder of it: of the same scheme and host, and of no host that
// only begins with the same letters.
func below(prefix, address string) bool {
	p, err := url.Parse(prefix)
	if err != nil {
		return false
	}
	a, err := url.Parse(address)
	if err != nil || a.Scheme != p.Scheme || !strings.EqualFold(a.Host, p.Host) {
		return false
	}
	// A server may read an escaped slash as one, or as a letter like any other: it has to be below for both.
	return belowPath(p.Path, a.Path) && belowPath(p.EscapedPath(), a.EscapedPath())
}

func belowPath(folder, name string) bool {
	return strings.HasPrefix(path.Clean("/"+name)+"/", strings.TrimSuffix(path.Clean("/"+folder), "/")+"/")
}
