package project

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/sluice-cd/sluice/render/objects"
)

// provider shares the users' requests between the tracks of an app. Each is one file, with its row here and its telemetry in
// package analysis.
type provider struct {
	// new makes the router of one projection.
	new func(*app) (router, error)
	// generates are the kinds of the objects that it makes.
	generates []schema.GroupKind
	// roles are what objects of its kinds do, whoever shares an app's traffic.
	roles map[schema.GroupKind]role
	// joins: the canary's pods are reached through the Services of the stable ones. Else they have Services of their own.
	joins bool
}

// providers by the names that a policy gives them.
var providers = map[string]provider{"istio": istio, "kubernetes": kubernetes}

// defaultProvider is that of a policy that names none.
const defaultProvider = "istio"

// providerOf is the provider that a plan names.
func providerOf(name string) (provider, error) {
	if name == "" {
		name = defaultProvider
	}
	p, known := providers[name]
	if !known {
		return p, fmt.Errorf("provider %q is not known, expected one of %s", name,
			strings.Join(slices.Sorted(maps.Keys(providers)), ", "))
	}
	return p, nil
}

// router shares the traffic of one app in one projection. It is pure.
type router interface {
	// service names the Service that users address; empty when the app has none.
	service() string
	// inject returns a copy of an object of the stable track that leads to the app, with the shares of both tracks; nil for
	// any other object. At rest the copy is the original.
	inject(*unstructured.Unstructured) (*unstructured.Unstructured, error)
	// generate returns what the release does not bring.
	generate() ([]*unstructured.Unstructured, error)
	// replicas are the canary's, where its share depends on them.
	replicas() (n int, ok bool)
	// warnings are what people are to be told of the shares.
	warnings() []string
	// counterpart returns the canaries of an object of the release under way that makes rules for a Service of the app.
	counterpart(*unstructured.Unstructured) []*unstructured.Unstructured
	// warns says what an object outside the release does to the shares; empty: nothing.
	warns(*unstructured.Unstructured) string
}

// role is what the objects of a kind have to do with an app's pods, whichever provider shares its traffic.
type role struct {
	does doing
	// path of the field that selects pods, of those that select.
	path []string
	// plain: the field is a map of labels, which selects every pod when it is absent; else it is a metav1.LabelSelector.
	plain bool
	// anywhere: objects of other namespaces may select the pods too.
	anywhere bool
}

// doing is the part that a kind plays.
type doing int

const (
	// selects: it makes rules for the pods that a selector of its own finds. It gets a counterpart for the canary's pods.
	selects doing = iota + 1
	// routes: it leads traffic for some hosts to Services.
	routes
	// rules: it makes rules for a Service.
	rules
	// sends: it sends traffic to the pods that a selector of its own finds, as a Service does.
	sends
)

// commonRoles are those of the kinds that belong to no provider. Those of the Gateway API are told by their group.
var commonRoles = map[schema.GroupKind]role{
	{Group: "networking.k8s.io", Kind: "NetworkPolicy"}:  {does: selects, path: []string{"spec", "podSelector"}},
	{Group: "policy", Kind: "PodDisruptionBudget"}:       {does: selects, path: []string{"spec", "selector"}},
	{Group: "monitoring.coreos.com", Kind: "PodMonitor"}: {does: selects, path: []string{"spec", "selector"}, anywhere: true},
	{Group: "networking.k8s.io", Kind: "Ingress"}:        {does: routes},
	{Group: "extensions", Kind: "Ingress"}:               {does: routes},
	{Group: "route.openshift.io", Kind: "Route"}:         {does: routes},
	{Group: "projectcontour.io", Kind: "HTTPProxy"}:      {does: routes},
	{Group: "traefik.io", Kind: "IngressRoute"}:          {does: routes},
}

// roles are those of all kinds that have one.
var roles = func() map[schema.GroupKind]role {
	all := maps.Clone(commonRoles)
	for _, p := range providers {
		maps.Copy(all, p.roles)
	}
	return all
}()

func roleOf(obj *unstructured.Unstructured) role {
	gk := objects.GroupKind(obj)
	if r, ok := roles[gk]; ok {
		return r
	}
	if gk.Group == "gateway.networking.k8s.io" && gk.Kind != "Gateway" && gk.Kind != "GatewayClass" {
		return role{does: routes}
	}
	return role{}
}

// leads reports whether an object sends traffic to pods, or makes rules for the pods that a selector of its own finds.
func leads(obj *unstructured.Unstructured) bool { return isService(obj) || roleOf(obj).does != 0 }

// isRoute reports whether an object leads traffic for some hosts to Services.
func isRoute(obj *unstructured.Unstructured) bool { return roleOf(obj).does == routes }

// selector reads the field by which an object that selects finds its pods.
func (r role) selector(obj *unstructured.Unstructured) (labels.Selector, error) {
	if r.plain {
		return labels.SelectorFromSet(textsAt(obj.Object, r.path...)), nil
	}
	s, err := objects.Selector(mapAt(obj.Object, r.path...))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", describe(obj), err)
	}
	return s, nil
}

// reaches reports whether obj may select pods of the workload, by its namespace.
func (r role) reaches(obj, workload *unstructured.Unstructured) bool {
	return r.anywhere || sameNamespace(obj, workload)
}

// sendsTo is the selector of an object that sends; one without selects nothing.
func (r role) sendsTo(obj *unstructured.Unstructured) labels.Selector {
	set := textsAt(obj.Object, r.path...)
	if len(set) == 0 {
		return labels.Nothing()
	}
	return labels.SelectorFromSet(set)
}

// GeneratedBy are the kinds of objects that a rollout makes by a provider of traffic; empty: the default one. Of one that is not
// known there are none.
func GeneratedBy(provider string) []schema.GroupKind {
	p, err := providerOf(provider)
	if err != nil {
		return nil
	}
	return append([]schema.GroupKind{{Kind: "Service"}}, p.generates...)
}

// GeneratedKinds are the kinds of objects that a rollout makes beside those of the kinds that the releases have.
func GeneratedKinds() []schema.GroupKind {
	kinds := []schema.GroupKind{{Kind: "Service"}}
	for _, name := range slices.Sorted(maps.Keys(providers)) {
		kinds = append(kinds, providers[name].generates...)
	}
	return kinds
}
