package cluster

import (
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/render/objects"
)

// Place is where a right is needed.
type Place int

const (
	// InStates is the namespace of an environment's states and of its Lease: the one that the configuration names.
	InStates Place = iota
	// InApps is each namespace that apps are in.
	InApps
	// InCluster is the whole cluster.
	InCluster
)

// Right is what may be done with one kind of resource.
type Right struct {
	Place           Place
	Group, Resource string
	Verbs           []string
	// Why it is needed, as the end of a sentence.
	Why string
}

// String is "deployments.apps".
func (r Right) String() string {
	return schema.GroupResource{Group: r.Group, Resource: r.Resource}.String()
}

// Rights are those that the agent itself needs, whatever the charts are that it delivers. Who installs it gives it these,
// and nobody else says what they are: the chart and the commands are held to this list.
func Rights() []Right {
	rights := []Right{
		{InStates, "", "secrets", []string{"get", "list", "watch", "create", "patch", "delete"}, "to keep the states of apps"},
		{InStates, "coordination.k8s.io", "leases", []string{"get", "create", "update"}, "to have one replica lead"},
		{InStates, "", "namespaces", []string{"get"}, "to see that the namespace of the states is there"},
		{InApps, "", "secrets", []string{"get", "list", "create", "update", "delete"}, "to keep Helm's records of releases"},
		{InApps, "", "namespaces", []string{"get"}, "to see that the namespace of an app is there"},
		{InApps, "", "pods", []string{"list"}, "to say why pods are not ready"},
		{InApps, "apps", "replicasets", []string{"list"}, "to tell the newest pods of a Deployment"},
		{InApps, project.FlaggerCanary.Group, resourceOf(project.FlaggerCanary), []string{"list"}, "to see what Flagger still steers"},
		{InCluster, objects.CRD.Group, "customresourcedefinitions", []string{"list", "watch"}, "to hear of new kinds"},
	}
	for _, gk := range project.EverywhereKinds() {
		rights = append(rights, Right{
			InCluster, gk.Group, resourceOf(gk), []string{"list"}, "to warn of what else leads the users of an app, in other namespaces",
		})
	}
	for _, gk := range project.WarningKinds() {
		rights = append(rights, Right{
			InApps, gk.Group, resourceOf(gk), []string{"list"}, "to warn about objects that match stable pods but not the canary's",
		})
	}
	return rights
}

// resourceOf a kind whose name is not irregular, before any server can be asked.
func resourceOf(gk schema.GroupKind) string {
	plural, _ := meta.UnsafeGuessKindToResource(gk.WithVersion(""))
	return plural.Resource
}

// ChartRight is the right to hold the objects of a kind that charts render.
func ChartRight(group, resource string) Right {
	return Right{
		Place: InApps, Group: group, Resource: resource,
		Verbs: []string{"get", "list", "watch", "create", "patch", "delete"}, Why: "to hold what the charts render",
	}
}
