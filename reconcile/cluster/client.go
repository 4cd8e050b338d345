package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/klog/v2"

	"github.com/sluice-cd/sluice/reconcile/allow"
	"github.com/sluice-cd/sluice/render/objects"
)

// Config is what a Client needs.
type Config struct {
	// REST says where the API server is and who we are, see LoadREST. It is copied.
	REST *rest.Config
	// Namespace holds the states and the leader's Lease. It is made when it is missing.
	Namespace string
	// Environment keeps the states of several environments in one namespace apart.
	Environment string
	// Allow is what may be applied, whatever the charts say. The zero value allows nothing.
	Allow allow.Rules
	// ServiceAccount as which objects are read and written that charts render, as namespace/name; empty: as REST says.
	// States, Helm records and Leases are the agent's own in any case.
	ServiceAccount string
	// FieldManager owns what is applied; default "sluice-" and the environment. Changing it later leaves the old one's fields behind.
	FieldManager string
	// Version of Sluice, for the user agent; default "dev".
	Version string
	// QPS and Burst limit requests to the API server, in requests a second; default 1000 each. That is for a loop gone
	// wild: how much is asked at once is bounded by the agent's workers, and by the server's own flow control. Watches do
	// not count.
	QPS   float32
	Burst int
	// Log gets what nobody waits for, such as a watch that had to begin anew; default: nowhere.
	Log *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.FieldManager == "" {
		c.FieldManager = "sluice-" + c.Environment
	}
	if c.Version == "" {
		c.Version = "dev"
	}
	if c.QPS == 0 {
		c.QPS = 1000
	}
	if c.Burst == 0 {
		c.Burst = 1000
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c Config) validate() error {
	var faults []error
	if c.REST == nil {
		faults = append(faults, errors.New("no API server is given"))
	}
	if c.Namespace == "" {
		faults = append(faults, errors.New("no namespace for the state is given"))
	}
	if c.Environment == "" {
		faults = append(faults, errors.New("no environment is given"))
	}
	return errors.Join(faults...)
}

// Client talks to one cluster for one environment. Make it with New.
type Client struct {
	cfg     Config
	core    coreclient.CoreV1Interface
	leases  coordinationclient.LeasesGetter
	access  authorizationclient.SelfSubjectAccessReviewsGetter
	dynamic dynamic.Interface
	// acting is dynamic as the environment's ServiceAccount.
	acting   dynamic.Interface
	metadata metadata.Interface
	kinds    *kinds
	watches  *watches
	releases *releases
	health   *healthCache
	outside  listings[collection, []*unstructured.Unstructured]
	// instance names our own writes of states.
	instance string

	// namespaces that are known to exist.
	namespaces sync.Map

	mu sync.Mutex
	// apps by name; an entry is written under mu, and by the goroutine that has the app only.
	apps map[string]*memory
	// claims says whose an object is.
	claims   map[objects.Key]claim
	onChange func(app string)
	// told counts the apps whose news is about to be told.
	told    int
	onPrune func(app string, k objects.Key) (why string, wait bool)
	// direct are the commands beside the states; watching begins with the first LoadStates.
	direct   *direct
	watching sync.Once
}

// New prepares a client; it asks the API server nothing yet. The watches that it starts later end with ctx.
func New(ctx context.Context, cfg Config) (*Client, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("configuring the cluster client: %w", err)
	}
	ctx = klog.NewContext(ctx, logr.FromSlogHandler(cfg.Log.Handler()))
	rc, hc, err := restConfig(cfg)
	if err != nil {
		return nil, err
	}
	c := &Client{
		cfg: cfg, instance: rand.Text(), apps: map[string]*memory{}, claims: map[objects.Key]claim{},
		health: newHealthCache(),
	}
	if err := c.connect(ctx, rc, hc); err != nil {
		return nil, fmt.Errorf("preparing clients of %s: %w", rc.Host, err)
	}
	c.releases = newReleases(c)
	c.direct = &direct{news: c.asked, asked: map[string]string{}}
	return c, nil
}

// restConfig adds the user agent, one limit for all clients together, and a place for the server's warnings.
func restConfig(cfg Config) (*rest.Config, *http.Client, error) {
	rc := rest.CopyConfig(cfg.REST)
	rc.UserAgent = "sluice/" + cfg.Version
	rc.QPS, rc.Burst = cfg.QPS, cfg.Burst
	rc.RateLimiter = flowcontrol.NewTokenBucketRateLimiter(cfg.QPS, cfg.Burst)
	rc.WarningHandlerWithContext = warnings{cfg.Log}
	rc.Wrap(func(through http.RoundTripper) http.RoundTripper { return patient{through} })
	hc, err := rest.HTTPClientFor(rc)
	if err != nil {
		return nil, nil, fmt.Errorf("preparing the connection to %s: %w", rc.Host, err)
	}
	return rc, hc, nil
}

func (c *Client) connect(ctx context.Context, rc *rest.Config, hc *http.Client) error {
	core, err := coreclient.NewForConfigAndClient(rc, hc)
	if err != nil {
		return err
	}
	leases, err := coordinationclient.NewForConfigAndClient(rc, hc)
	if err != nil {
		return err
	}
	access, err := authorizationclient.NewForConfigAndClient(rc, hc)
	if err != nil {
		return err
	}
	dyn, err := dynamic.NewForConfigAndClient(rc, hc)
	if err != nil {
		return err
	}
	acting, err := c.impersonating(rc, dyn)
	if err != nil {
		return err
	}
	meta, err := metadata.NewForConfigAndClient(metadata.ConfigFor(rc), hc)
	if err != nil {
		return err
	}
	k, err := newKinds(rc, hc)
	if err != nil {
		return err
	}
	c.core, c.leases, c.access, c.dynamic, c.acting = core, leases, access, dyn, acting
	c.metadata, c.kinds = meta, k
	c.watches = newWatches(ctx, meta, c.noticed)
	return nil
}

// impersonating is the client for what charts render.
func (c *Client) impersonating(rc *rest.Config, own dynamic.Interface) (dynamic.Interface, error) {
	if c.cfg.ServiceAccount == "" {
		return own, nil
	}
	namespace, name, ok := strings.Cut(c.cfg.ServiceAccount, "/")
	if !ok {
		return nil, fmt.Errorf("the ServiceAccount is %q, expected namespace/name", c.cfg.ServiceAccount)
	}
	as := rest.CopyConfig(rc)
	as.Impersonate = rest.ImpersonationConfig{UserName: "system:serviceaccount:" + namespace + ":" + name}
	return dynamic.NewForConfig(as)
}

// OnChange names the function that is told which app needs a look: an object of its was changed or deleted by
// somebody else, or a workload that it waits for has news. It is called from other goroutines, must not block,
// and must be set before LoadStates.
func (c *Client) OnChange(f func(app string)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onChange = f
}

// OnPrune names the function that is asked before an object of the stable track is deleted: it says why it stays, wait:
// only for now. It must not block, and must be set before LoadStates; without one everything goes.
func (c *Client) OnPrune(f func(app string, k objects.Key) (why string, wait bool)) { c.onPrune = f }

// warnings of the API server, such as of deprecated API versions.
type warnings struct{ log *slog.Logger }

// HandleWarningHeaderWithContext implements rest.WarningHandlerWithContext.
func (w warnings) HandleWarningHeaderWithContext(_ context.Context, code int, _, text string) {
	if code == 299 && text != "" {
		w.log.Debug("the API server warns", "warning", text)
	}
}

// lostNamespace makes the next write make a namespace anew, if err says that it is gone.
func (c *Client) lostNamespace(err error) {
	var status apierrors.APIStatus
	if !apierrors.IsNotFound(err) || !errors.As(err, &status) {
		return
	}
	if d := status.Status().Details; d != nil && d.Kind == "namespaces" {
		c.namespaces.Delete(d.Name)
	}
}

// ensureNamespace makes a namespace that is missing. Whoever may not look at namespaces is trusted to have made it.
func (c *Client) ensureNamespace(ctx context.Context, name string) error {
	if _, ok := c.namespaces.Load(name); ok || name == "" {
		return nil
	}
	_, err := c.core.Namespaces().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		_, err = c.core.Namespaces().Create(ctx, ns, metav1.CreateOptions{FieldManager: c.cfg.FieldManager})
	}
	if err != nil && !apierrors.IsForbidden(err) && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("making namespace %s: %w", name, err)
	}
	c.namespaces.Store(name, true)
	return nil
}
