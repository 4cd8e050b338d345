package traffic

import (
	"context"
	"fmt"
	"slices"

	"istio.io/client-go/pkg/clientset/versioned"
	istioinformers "istio.io/client-go/pkg/informers/externalversions"
	networkinglisters "istio.io/client-go/pkg/listers/networking/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/sluice-cd/sluice/test/bed/behaviour"
)

// watched is the model's view of the cluster.
type watched struct {
	table            *behaviour.Table
	services         corelisters.ServiceLister
	pods             corelisters.PodLister
	replicaSets      appslisters.ReplicaSetLister
	slices           discoverylisters.EndpointSliceLister
	virtualServices  networkinglisters.VirtualServiceLister
	destinationRules networkinglisters.DestinationRuleLister
	httpRoutes       cache.GenericLister
}

// watch starts informers until ctx ends and returns once they are filled. They
// call changed on each change.
func watch(ctx context.Context, config *rest.Config, table *behaviour.Table, changed func()) (*watched, error) {
	config = rest.CopyConfig(config)
	config.UserAgent = "bed-traffic"
	config.QPS = -1
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	istio, err := versioned.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	gateway, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	builtin := informers.NewSharedInformerFactory(kube, 0)
	custom := istioinformers.NewSharedInformerFactory(istio, 0)
	untyped := dynamicinformer.NewDynamicSharedInformerFactory(gateway, 0)

	services, pods := builtin.Core().V1().Services(), builtin.Core().V1().Pods()
	replicaSets, slices := builtin.Apps().V1().ReplicaSets(), builtin.Discovery().V1().EndpointSlices()
	virtualServices, destinationRules := custom.Networking().V1().VirtualServices(), custom.Networking().V1().DestinationRules()
	all := []cache.SharedIndexInformer{
		services.Informer(), pods.Informer(), replicaSets.Informer(), slices.Informer(),
		virtualServices.Informer(), destinationRules.Informer(),
	}
	// Somebody's own cluster may not know them, and an informer would wait for them for ever.
	httpRoutes := cache.NewGenericLister(cache.NewIndexer(cache.MetaNamespaceKeyFunc, nil), httpRouteResource.GroupResource())
	switch served, err := discovered(kube, httpRouteResource); {
	case err != nil:
		return nil, err
	case served:
		informer := untyped.ForResource(httpRouteResource)
		all, httpRoutes = append(all, informer.Informer()), informer.Lister()
	}

	var synced []cache.InformerSynced
	for _, informer := range all {
		handlers := cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { changed() },
			UpdateFunc: func(any, any) { changed() },
			DeleteFunc: func(any) { changed() },
		}
		if _, err := informer.AddEventHandler(handlers); err != nil {
			return nil, err
		}
		synced = append(synced, informer.HasSynced)
	}
	builtin.Start(ctx.Done())
	custom.Start(ctx.Done())
	untyped.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return nil, fmt.Errorf("listing what routes depend on: %w", ctx.Err())
	}
	return &watched{
		table:    table,
		services: services.Lister(), pods: pods.Lister(), replicaSets: replicaSets.Lister(), slices: slices.Lister(),
		virtualServices: virtualServices.Lister(), destinationRules: destinationRules.Lister(), httpRoutes: httpRoutes,
	}, nil
}

// discovered reports whether the API server serves a resource.
func discovered(kube kubernetes.Interface, resource schema.GroupVersionResource) (bool, error) {
	list, err := kube.Discovery().ServerResourcesForGroupVersion(resource.GroupVersion().String())
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("asking for the resources of %s: %w", resource.GroupVersion(), err)
	}
	return slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == resource.Resource }), nil
}

// world reads everything from the caches. Its objects are shared: read only.
func (w *watched) world() *world {
	all := labels.Everything()
	// Listing a cache with the selector for everything cannot fail.
	services, _ := w.services.List(all)
	pods, _ := w.pods.List(all)
	replicaSets, _ := w.replicaSets.List(all)
	slices, _ := w.slices.List(all)
	virtualServices, _ := w.virtualServices.List(all)
	destinationRules, _ := w.destinationRules.List(all)
	httpRoutes, _ := w.httpRoutes.List(all)
	routes := worldRoutes{virtualServices, destinationRules, readHTTPRoutes(httpRoutes)}
	return newWorld(services, pods, replicaSets, slices, routes, w.table)
}

func newWorld(services []*corev1.Service, pods []*corev1.Pod, replicaSets []*appsv1.ReplicaSet,
	slices []*discovery.EndpointSlice, routes worldRoutes, table *behaviour.Table,
) *world {
	w := &world{
		worldRoutes:      routes,
		services:         make(map[types.NamespacedName]*corev1.Service, len(services)),
		slices:           make(map[types.NamespacedName][]*discovery.EndpointSlice, len(slices)),
		pods:             make(map[types.NamespacedName]*corev1.Pod, len(pods)),
		replicaSetOwners: make(map[types.NamespacedName]string, len(replicaSets)),
		table:            table,
	}
	for _, s := range services {
		w.services[nameOf(s)] = s
	}
	for _, p := range pods {
		w.pods[nameOf(p)] = p
	}
	for _, s := range slices {
		service := types.NamespacedName{Namespace: s.Namespace, Name: s.Labels[discovery.LabelServiceName]}
		w.slices[service] = append(w.slices[service], s)
	}
	for _, r := range replicaSets {
		if owner := metav1.GetControllerOf(r); owner != nil {
			w.replicaSetOwners[nameOf(r)] = owner.Name
		}
	}
	return w
}

func nameOf(o metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}
