package bed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/sluice-cd/sluice/test/bed/loopback"
)

// Istiod is Istio's control plane beside a bed's API server. There is no Envoy: what proxies would do is what they are told.
type Istiod struct {
	server  *server
	program string
	grpc    int
}

// Proxy is whom Istiod tells something.
type Proxy struct {
	// Kind is sidecar or router, which is a gateway; grpc: a client without a proxy.
	Kind string `json:"kind"`
	// Namespace of its pod, whose Labels a Gateway selects it by.
	Namespace string            `json:"namespace"`
	Labels    map[string]string `json:"labels,omitempty"`
	// Listeners are what a client without a proxy calls, such as web.default.svc.cluster.local:80.
	Listeners []string `json:"listeners,omitempty"`
}

// Told is what a proxy is told.
type Told struct {
	Routes []ProxyRoute `json:"routes"`
	// Clusters are the addresses of each cluster's endpoints; nil: they are not Istio's to say.
	Clusters map[string][]string `json:"clusters"`
}

// ProxyRoute leads the requests or connections that it matches to clusters, by weight. At says where: the listener or table of
// routes, the host, and its number among the host's routes.
type ProxyRoute struct {
	At     string            `json:"at"`
	Match  string            `json:"match"`
	Shares map[string]uint32 `json:"shares"`
}

// IstioMessage is what one of Istio's analyzers says about an object.
type IstioMessage struct{ Code, Level, About, Text string }

// BuildIstiod is Build for Istio's control plane, a module of its own that only tests of routing need.
func BuildIstiod(ctx context.Context, root string, progress io.Writer) (string, error) {
	return builder{
		name: "istiod", minutes: 6, sources: filepath.Join(root, "test", "bed", "istiod"), flags: []string{"-ldflags=-s -w"}, progress: progress,
	}.program(ctx)
}

// StartIstiod builds istiod if needed, which the first time takes minutes, and starts it beside the bed's API server. ctx bounds the
// start alone.
func (b *Bed) StartIstiod(ctx context.Context, progress io.Writer) (*Istiod, error) {
	root, err := FindRoot()
	if err != nil {
		return nil, err
	}
	program, err := BuildIstiod(ctx, root, progress)
	if err != nil {
		return nil, err
	}
	http, err := loopback.Port()
	if err != nil {
		return nil, err
	}
	i := &Istiod{program: program}
	if i.grpc, err = loopback.Port(); err != nil {
		return nil, err
	}
	mesh := filepath.Join(b.Dir, "mesh.yaml")
	if err := os.WriteFile(mesh, []byte("accessLogFile: \"\"\n"), 0o600); err != nil {
		return nil, err
	}
	i.server = b.server(program, "istiod", b.Kubeconfig, mesh, strconv.Itoa(http), strconv.Itoa(i.grpc))
	// No certificates, for nobody is proven to be who he is; and what changes is told at once.
	i.server.env = []string{
		"PILOT_CERT_PROVIDER=none", "ENABLE_CA_SERVER=false", "POD_NAMESPACE=istio-system", "PILOT_DEBOUNCE_AFTER=20ms", "PILOT_DEBOUNCE_MAX=200ms",
	}
	limited, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	if err := i.server.start(limited); err != nil {
		return nil, errors.Join(err, i.Close())
	}
	return i, nil
}

// Close ends it.
func (i *Istiod) Close() error { return i.server.stop() }

// Told is what proxies are told now, by the names that they have here.
func (i *Istiod) Told(ctx context.Context, proxies map[string]Proxy) (told map[string]*Told, err error) {
	asked, err := json.Marshal(proxies)
	if err != nil {
		return nil, err
	}
	return told, i.ask(ctx, asked, &told, "routes", strconv.Itoa(i.grpc))
}

// Analyze is what Istio's analyzers say of manifests; it asks no server.
func (i *Istiod) Analyze(ctx context.Context, manifests []byte) (found []IstioMessage, err error) {
	return found, i.ask(ctx, manifests, &found, "analyze")
}

func (i *Istiod) ask(ctx context.Context, input []byte, answer any, args ...string) error {
	cmd := exec.CommandContext(ctx, i.program, args...)
	var said bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(input), &said
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("asking Istio for %s: %w: %s", args[0], err, said.Bytes())
	}
	return json.Unmarshal(out, answer)
}
