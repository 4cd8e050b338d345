package cluster

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"path"
	"slices"
	"sync"
	"time"

	"helm.sh/helm/v3/pkg/chartutil"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	discoverycache "k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"

	"github.com/sluice-cd/sluice/render/objects"
)

// lookAgainAfter bounds how often a kind that the server does not know makes us ask it for its kinds anew.
const lookAgainAfter = 5 * time.Second

// kinds knows what the API server serves. It asks once, and again when a CRD has changed or an unknown kind is
// asked for.
type kinds struct {
	discovery discovery.CachedDiscoveryInterface
	mapper    *restmapper.DeferredDiscoveryRESTMapper

	mu sync.Mutex
	// mappings that were looked up; the mapper itself searches every group for each.
	mappings map[schema.GroupVersionKind]*meta.RESTMapping
	// capabilities are kept when outdated, so that equal ones stay the same pointer.
	capabilities *chartutil.Capabilities
	outdated     bool
	asked        time.Time
}

func newKinds(rc *rest.Config, hc *http.Client) (*kinds, error) {
	d, err := discovery.NewDiscoveryClientForConfigAndClient(rc, hc)
	if err != nil {
		return nil, err
	}
	cached := discoverycache.NewMemCacheClient(d)
	return &kinds{
		discovery: cached, mapper: restmapper.NewDeferredDiscoveryRESTMapper(cached),
		mappings: map[schema.GroupVersionKind]*meta.RESTMapping{},
	}, nil
}

// forget makes the next question reach the server.
func (k *kinds) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.outdated = true
	clear(k.mappings)
	k.asked = time.Now()
	k.mapper.Reset()
}

// mapping finds the resource of a kind.
func (k *kinds) mapping(gvk schema.GroupVersionKind) (*meta.RESTMapping, error) {
	k.mu.Lock()
	m := k.mappings[gvk]
	k.mu.Unlock()
	if m != nil {
		return m, nil
	}
	m, err := k.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if meta.IsNoMatchError(err) && k.mayAskAgain() {
		k.forget()
		m, err = k.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	}
	if err != nil {
		return nil, fmt.Errorf("looking up kind %s: %w", gvk, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mappings[gvk] = m
	return m, nil
}

// lists reports whether the server lists the kind that a CRD defines, asking it anew.
func (k *kinds) lists(crd *unstructured.Unstructured) bool {
	k.forget()
	group, _, _ := unstructured.NestedString(crd.Object, "spec", "group")
	kind, _, _ := unstructured.NestedString(crd.Object, "spec", "names", "kind")
	_, err := k.mapper.RESTMapping(schema.GroupKind{Group: group, Kind: kind})
	return err == nil
}

func (k *kinds) mayAskAgain() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return time.Since(k.asked) > lookAgainAfter
}

// Namespaced reports whether objects of a kind live in namespaces. Known is false for kinds that the API server
// does not serve, and while it can't be asked.
func (c *Client) Namespaced(gvk schema.GroupVersionKind) (namespaced, known bool) {
	m, err := c.kinds.mapping(gvk)
	if err != nil {
		return false, false
	}
	return m.Scope.Name() == meta.RESTScopeNameNamespace, true
}

// Capabilities are the cluster's, as Helm shows them to charts. They are asked for once, and again after a CRD
// was made, changed or deleted. The result is shared, the same pointer for as long as nothing differs, and must
// not be changed.
func (c *Client) Capabilities(ctx context.Context) (*chartutil.Capabilities, error) {
	c.watchCRDs(ctx)
	k := c.kinds
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.capabilities != nil && !k.outdated {
		return k.capabilities, nil
	}
	version, err := k.discovery.ServerVersion()
	if err != nil {
		return nil, fmt.Errorf("asking for the version of Kubernetes: %w", err)
	}
	versions, err := apiVersions(k.discovery)
	if err != nil {
		return nil, fmt.Errorf("asking for the API versions of Kubernetes: %w", err)
	}
	now := &chartutil.Capabilities{
		KubeVersion: chartutil.KubeVersion{Version: version.GitVersion, Major: version.Major, Minor: version.Minor},
		APIVersions: versions,
		HelmVersion: chartutil.DefaultCapabilities.HelmVersion,
	}
	if old := k.capabilities; old == nil || old.KubeVersion != now.KubeVersion || !slices.Equal(old.APIVersions, now.APIVersions) {
		k.capabilities = now
	}
	k.outdated = false
	return k.capabilities, nil
}

// apiVersions lists group versions and kinds as Helm does, but sorted, so that equal clusters give equal lists.
func apiVersions(d discovery.ServerResourcesInterface) (chartutil.VersionSet, error) {
	groups, resources, err := d.ServerGroupsAndResources()
	// An aggregated API whose server is away must not stop everything else.
	if err != nil && !discovery.IsGroupDiscoveryFailedError(err) {
		return nil, err
	}
	seen := map[string]bool{}
	for _, g := range groups {
		for _, v := range g.Versions {
			seen[v.GroupVersion] = true
		}
	}
	for _, list := range resources {
		for _, r := range list.APIResources {
			seen[path.Join(list.GroupVersion, r.Kind)] = true
		}
	}
	out := make(chartutil.VersionSet, 0, len(seen))
	for v := range seen {
		out = append(out, v)
	}
	slices.SortFunc(out, cmp.Compare[string])
	return out, nil
}

// watchCRDs makes news of CRDs reach kinds. Without the right to see them, only what Apply itself makes does.
func (c *Client) watchCRDs(ctx context.Context) {
	crds := schema.GroupVersionResource{Group: objects.CRD.Group, Version: "v1", Resource: "customresourcedefinitions"}
	if _, err := c.watches.feed(ctx, objects.CRD, crds, ""); err != nil {
		c.cfg.Log.Debug("CRDs can't be watched", "error", err)
	}
}
