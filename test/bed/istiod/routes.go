package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
)

// Proxy is whom Istio is asked for.
type Proxy struct {
	// Kind is sidecar or router; grpc: a client without a proxy.
	Kind string `json:"kind"`
	// Namespace of its pod, whose Labels a Gateway selects it by.
	Namespace string            `json:"namespace"`
	Labels    map[string]string `json:"labels,omitempty"`
	// Listeners are the names that a client without a proxy asks for, such as web.default.svc.cluster.local:80.
	Listeners []string `json:"listeners,omitempty"`
}

// Told is what a proxy is told.
type Told struct {
	Routes []Route `json:"routes"`
	// Clusters are the endpoints of each cluster, by its name. One that is not here does not exist; nil: what it has is not
	// Istio's to say.
	Clusters map[string][]string `json:"clusters"`
}

// Route leads requests, or connections, to clusters.
type Route struct {
	// At says where: the listener or the route's name, the host, and the route's number among its host's.
	At string `json:"at"`
	// Match is what its requests have.
	Match string `json:"match"`
	// Shares are the weights of clusters.
	Shares map[string]uint32 `json:"shares"`
}

const (
	clusterType  = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	endpointType = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	listenerType = "type.googleapis.com/envoy.config.listener.v3.Listener"
	routeType    = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
)

// stream asks one question after the other.
type stream struct {
	discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesClient
	node *corev3.Node
}

// ask asks Istio what it tells a proxy.
func ask(address string, p Proxy) (*Told, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	client, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).StreamAggregatedResources(ctx)
	if err != nil {
		return nil, err
	}
	node, err := p.node()
	if err != nil {
		return nil, err
	}
	return p.told(&stream{client, node})
}

func (p Proxy) node() (*corev3.Node, error) {
	labels := map[string]any{}
	for k, v := range p.Labels {
		labels[k] = v
	}
	meta := map[string]any{"NAMESPACE": p.Namespace, "LABELS": labels, "ISTIO_VERSION": "1.31.0", "CLUSTER_ID": "Kubernetes"}
	kind := p.Kind
	if kind == "grpc" {
		kind, meta["GENERATOR"] = "sidecar", "grpc"
	}
	metadata, err := structpb.NewStruct(meta)
	if err != nil {
		return nil, err
	}
	return &corev3.Node{Id: fmt.Sprintf("%s~10.255.255.1~asker.%s~%s.svc.cluster.local", kind, p.Namespace, p.Namespace), Metadata: metadata}, nil
}

// told asks for clusters, their endpoints, listeners and routes, in the order in which proxies do.
func (p Proxy) told(s *stream) (*Told, error) {
	told := &Told{Clusters: map[string][]string{}}
	if p.Kind == "grpc" {
		return told, p.withoutProxy(s, told)
	}
	clusters, err := s.get(clusterType)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, r := range clusters {
		var c clusterv3.Cluster
		if err := r.UnmarshalTo(&c); err != nil {
			return nil, err
		}
		told.Clusters[c.Name] = nil
		if c.GetType() == clusterv3.Cluster_EDS {
			names = append(names, c.Name)
		}
	}
	if err := s.endpoints(names, told); err != nil {
		return nil, err
	}
	listeners, err := s.get(listenerType)
	if err != nil {
		return nil, err
	}
	tables, err := told.listeners(listeners)
	if err != nil {
		return nil, err
	}
	return told, s.tables(tables, told)
}

// withoutProxy asks as gRPC's own client does: for the listeners that it is to call, and what follows from those.
func (p Proxy) withoutProxy(s *stream, told *Told) error {
	listeners, err := s.get(listenerType, p.Listeners...)
	if err != nil {
		return err
	}
	var tables []string
	for _, r := range listeners {
		var l listenerv3.Listener
		if err := r.UnmarshalTo(&l); err != nil {
			return err
		}
		var hcm hcmv3.HttpConnectionManager
		if err := l.GetApiListener().GetApiListener().UnmarshalTo(&hcm); err != nil {
			return err
		}
		tables = append(tables, hcm.GetRds().GetRouteConfigName())
	}
	if err := s.tables(tables, told); err != nil {
		return err
	}
	var names []string
	for _, r := range told.Routes {
		for name := range r.Shares {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	clusters, err := s.get(clusterType, names...)
	if err != nil {
		return err
	}
	for _, r := range clusters {
		var c clusterv3.Cluster
		if err := r.UnmarshalTo(&c); err != nil {
			return err
		}
		told.Clusters[c.Name] = nil
	}
	return s.endpoints(names, told)
}

// get asks for resources of a type and acknowledges the answer.
func (s *stream) get(kind string, names ...string) ([]*anypb.Any, error) {
	if err := s.Send(&discoveryv3.DiscoveryRequest{Node: s.node, TypeUrl: kind, ResourceNames: names}); err != nil {
		return nil, err
	}
	for {
		answer, err := s.Recv()
		if err != nil {
			return nil, fmt.Errorf("asking for %s: %w", kind[strings.LastIndex(kind, ".")+1:], err)
		}
		if err := s.Send(&discoveryv3.DiscoveryRequest{
			TypeUrl: answer.TypeUrl, ResourceNames: names, VersionInfo: answer.VersionInfo, ResponseNonce: answer.Nonce,
		}); err != nil {
			return nil, err
		}
		if answer.TypeUrl == kind {
			return answer.Resources, nil
		}
		return nil, errors.New("what proxies are told changes while they are asked") // whoever asks does so again
	}
}

func (s *stream) endpoints(names []string, told *Told) error {
	if len(names) == 0 {
		return nil
	}
	resources, err := s.get(endpointType, names...)
	if err != nil {
		return err
	}
	for _, name := range names {
		told.Clusters[name] = []string{}
	}
	for _, r := range resources {
		var a endpointv3.ClusterLoadAssignment
		if err := r.UnmarshalTo(&a); err != nil {
			return err
		}
		for _, group := range a.Endpoints {
			for _, e := range group.LbEndpoints {
				if e.HealthStatus == corev3.HealthStatus_UNHEALTHY || e.HealthStatus == corev3.HealthStatus_DRAINING {
					continue
				}
				told.Clusters[a.ClusterName] = append(told.Clusters[a.ClusterName], e.GetEndpoint().GetAddress().GetSocketAddress().GetAddress())
			}
		}
	}
	return nil
}

// listeners reads those that lead connections to clusters, and names the tables of routes of the others.
func (t *Told) listeners(resources []*anypb.Any) (tables []string, err error) {
	for _, r := range resources {
		var l listenerv3.Listener
		if err := r.UnmarshalTo(&l); err != nil {
			return nil, err
		}
		if l.TrafficDirection == corev3.TrafficDirection_INBOUND {
			continue
		}
		for n, chain := range append(l.FilterChains, l.GetDefaultFilterChain()) {
			for _, f := range chain.GetFilters() {
				switch {
				case f.GetTypedConfig().MessageIs(&hcmv3.HttpConnectionManager{}):
					var hcm hcmv3.HttpConnectionManager
					if err := f.GetTypedConfig().UnmarshalTo(&hcm); err != nil {
						return nil, err
					}
					if name := hcm.GetRds().GetRouteConfigName(); name != "" {
						tables = append(tables, name)
					}
				case f.GetTypedConfig().MessageIs(&tcpv3.TcpProxy{}):
					var tcp tcpv3.TcpProxy
					if err := f.GetTypedConfig().UnmarshalTo(&tcp); err != nil {
						return nil, err
					}
					t.Routes = append(t.Routes, Route{
						At: fmt.Sprintf("%s/%d", l.Name, n), Match: strings.Join(chain.GetFilterChainMatch().GetServerNames(), " "), Shares: tcpShares(&tcp),
					})
				}
			}
		}
	}
	slices.Sort(tables)
	return slices.Compact(tables), nil
}

func tcpShares(tcp *tcpv3.TcpProxy) map[string]uint32 {
	shares := map[string]uint32{}
	if name := tcp.GetCluster(); name != "" {
		shares[name] = 100
	}
	for _, c := range tcp.GetWeightedClusters().GetClusters() {
		shares[c.Name] += c.Weight
	}
	return shares
}

// tables asks for tables of routes.
func (s *stream) tables(names []string, told *Told) error {
	if len(names) == 0 {
		return nil
	}
	resources, err := s.get(routeType, names...)
	if err != nil {
		return err
	}
	for _, r := range resources {
		var table routev3.RouteConfiguration
		if err := r.UnmarshalTo(&table); err != nil {
			return err
		}
		for _, host := range table.VirtualHosts {
			for n, route := range host.Routes {
				shares := map[string]uint32{}
				if name := route.GetRoute().GetCluster(); name != "" {
					shares[name] = 100
				}
				for _, c := range route.GetRoute().GetWeightedClusters().GetClusters() {
					shares[c.Name] += c.GetWeight().GetValue()
				}
				told.Routes = append(told.Routes, Route{
					At: fmt.Sprintf("%s/%s/%d", table.Name, host.Name, n), Match: route.Match.String(), Shares: shares,
				})
			}
		}
	}
	return nil
}
