package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/controller-manager/pkg/informerfactory"
	"k8s.io/kubernetes/pkg/controller/daemon"
	"k8s.io/kubernetes/pkg/controller/deployment"
	"k8s.io/kubernetes/pkg/controller/endpointslice"
	"k8s.io/kubernetes/pkg/controller/garbagecollector"
	"k8s.io/kubernetes/pkg/controller/job"
	"k8s.io/kubernetes/pkg/controller/namespace"
	"k8s.io/kubernetes/pkg/controller/replicaset"
	"k8s.io/kubernetes/pkg/controller/statefulset"
)

const (
	workers    = 5
	gcInterval = 5 * time.Second // how often new kinds are looked for
)

// runControllers runs the controllers that rollouts depend on, as
// kube-controller-manager would, until ctx ends. Its command is not used
// because the clouds, volumes and autoscalers that come with it cost minutes
// of compiling.
func runControllers(ctx context.Context, config *rest.Config) error {
	m := &manager{config: config}
	client := m.client("shared-informers")
	shared := informers.NewSharedInformerFactoryWithOptions(client, 12*time.Hour, informers.WithTransform(withoutManagedFields))
	started := make(chan struct{})

	runs := m.workloads(ctx, shared)
	collect, err := m.garbage(ctx, shared, started)
	if err != nil {
		return err
	}
	runs = append(runs, collect)
	if m.err != nil {
		return m.err
	}

	shared.Start(ctx.Done())
	close(started)
	var group sync.WaitGroup
	for _, run := range runs {
		group.Go(func() { run(ctx) })
	}
	group.Wait()
	return ctx.Err()
}

// manager makes clients, each with its controller's name as user agent so that
// the audit log tells them apart. The first error stays in err.
type manager struct {
	config *rest.Config
	err    error
}

// configFor is unlimited: the API server is ours alone and protects itself.
func (m *manager) configFor(controller string) *rest.Config {
	config := rest.CopyConfig(m.config)
	config.UserAgent = "bed-controllers/" + controller
	config.QPS = -1
	return config
}

func (m *manager) client(controller string) kubernetes.Interface {
	config := m.configFor(controller)
	config.ContentType = runtime.ContentTypeProtobuf
	client, err := kubernetes.NewForConfig(config)
	m.keep(controller, err)
	return client
}

func (m *manager) keep(what string, err error) {
	if err != nil && m.err == nil {
		m.err = fmt.Errorf("creating %s: %w", what, err)
	}
}

// workloads returns the loops of the seven controllers besides the collector.
func (m *manager) workloads(ctx context.Context, shared informers.SharedInformerFactory) []func(context.Context) {
	apps, core := shared.Apps().V1(), shared.Core().V1()

	deployments, err := deployment.NewDeploymentController(ctx,
		apps.Deployments(), apps.ReplicaSets(), core.Pods(), m.client("deployment"))
	m.keep("the deployment controller", err)
	daemons, err := daemon.NewDaemonSetsController(ctx,
		apps.DaemonSets(), apps.ControllerRevisions(), core.Pods(), core.Nodes(), m.client("daemonset"),
		flowcontrol.NewBackOff(time.Second, 15*time.Minute))
	m.keep("the daemonset controller", err)
	jobs, err := job.NewController(ctx, m.client("job"), core.Pods(), shared.Batch().V1().Jobs(), nil, nil)
	m.keep("the job controller", err)
	replicaSets := replicaset.NewReplicaSetController(ctx,
		apps.ReplicaSets(), core.Pods(), m.client("replicaset"), replicaset.BurstReplicas)
	statefulSets := statefulset.NewStatefulSetController(ctx,
		core.Pods(), apps.StatefulSets(), core.PersistentVolumeClaims(), apps.ControllerRevisions(), m.client("statefulset"))
	slices := endpointslice.NewController(ctx,
		core.Pods(), core.Services(), core.Nodes(), shared.Discovery().V1().EndpointSlices(),
		100, m.client("endpointslice"), 0)
	metadataClient, err := metadata.NewForConfig(m.configFor("namespace"))
	m.keep("the namespace controller", err)
	namespaceClient := m.client("namespace")
	if m.err != nil {
		return nil
	}
	namespaces := namespace.NewNamespaceController(ctx, namespaceClient, metadataClient,
		namespaceClient.Discovery().ServerPreferredNamespacedResources,
		core.Namespaces(), 5*time.Minute, v1.FinalizerKubernetes)

	return []func(context.Context){
		func(ctx context.Context) { deployments.Run(ctx, workers) },
		func(ctx context.Context) { replicaSets.Run(ctx, workers) },
		func(ctx context.Context) { statefulSets.Run(ctx, workers) },
		func(ctx context.Context) { daemons.Run(ctx, workers) },
		func(ctx context.Context) { jobs.Run(ctx, workers) },
		func(ctx context.Context) { slices.Run(ctx, workers) },
		func(ctx context.Context) { namespaces.Run(ctx, workers) },
	}
}

// garbage returns the loop of the garbage collector, which finds the kinds of
// custom resources by asking again and again.
func (m *manager) garbage(ctx context.Context, shared informers.SharedInformerFactory, started <-chan struct{}) (func(context.Context), error) {
	config := m.configFor("garbagecollector")
	metadataClient, err := metadata.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("creating the garbage collector's client: %w", err)
	}
	discoveryClient, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("creating the garbage collector's discovery: %w", err)
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(discoveryClient))
	go wait.UntilWithContext(ctx, func(context.Context) { mapper.Reset() }, gcInterval)

	factory := informerfactory.NewInformerFactory(shared,
		metadatainformer.NewSharedInformerFactoryWithOptions(metadataClient, 12*time.Hour, metadatainformer.WithTransform(withoutManagedFields)))
	graph := garbagecollector.NewDependencyGraphBuilder(ctx, metadataClient, mapper,
		garbagecollector.DefaultIgnoredResources(), factory, started)
	collector, err := garbagecollector.NewComposedGarbageCollector(ctx, m.client("garbagecollector"), metadataClient, mapper, graph)
	if err != nil {
		return nil, fmt.Errorf("creating the garbage collector: %w", err)
	}
	return func(ctx context.Context) {
		go collector.Sync(ctx, discoveryClient, gcInterval)
		collector.Run(ctx, workers, gcInterval)
	}, nil
}

// withoutManagedFields halves what the informers hold.
func withoutManagedFields(obj any) (any, error) {
	if accessor, err := meta.Accessor(obj); err == nil {
		accessor.SetManagedFields(nil)
	}
	return obj, nil
}
