package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
)

// commandAnnotation, on the Secret of an app's state, is a command in the form of a commit's message on the command branch.
const commandAnnotation = "sluice.dev/command"

// direct are the commands that people have left on the Secrets of states, by the Secret's name. It is the store of a reflector.
type direct struct {
	// news is told the name of a Secret that has a new one.
	news func(secret string)

	mu    sync.Mutex
	asked map[string]string
}

var _ cache.ReflectorStore = (*direct)(nil)

// Add implements cache.ReflectorStore.
func (d *direct) Add(obj any) error {
	o, ok := obj.(metav1.Object)
	if !ok {
		return fmt.Errorf("an object of type %T came from the watch of states", obj)
	}
	text := o.GetAnnotations()[commandAnnotation]
	d.mu.Lock()
	fresh := text != "" && d.asked[o.GetName()] != text
	if text != "" {
		d.asked[o.GetName()] = text
	} else {
		delete(d.asked, o.GetName())
	}
	d.mu.Unlock()
	if fresh {
		d.news(o.GetName())
	}
	return nil
}

// Update implements cache.ReflectorStore.
func (d *direct) Update(obj any) error { return d.Add(obj) }

// Delete implements cache.ReflectorStore.
func (d *direct) Delete(obj any) error {
	if o, ok := obj.(metav1.Object); ok {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.asked, o.GetName())
	}
	return nil
}

// Replace implements cache.ReflectorStore.
func (d *direct) Replace(list []any, _ string) error {
	d.mu.Lock()
	clear(d.asked)
	d.mu.Unlock()
	for _, obj := range list {
		if err := d.Add(obj); err != nil {
			return err
		}
	}
	return nil
}

// Resync implements cache.ReflectorStore.
func (d *direct) Resync() error { return nil }

// of is the command on a Secret, and its name; empty: there is none.
func (d *direct) of(secret string) (id, text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if text = d.asked[secret]; text == "" {
		return "", ""
	}
	return digest([]byte(text)), text
}

// Direct is the command that somebody has left beside the state of an app, as it was written, and its name; empty: there is
// none that is known of.
func (c *Client) Direct(app string) (id, text string) { return c.direct.of(c.stateName(app)) }

// states selects the Secrets of an environment's states.
func states(environment string) metav1.ListOptions {
	return metav1.ListOptions{
		LabelSelector: labels.Set{environmentLabel: labelValue(environment)}.String(),
		FieldSelector: fields.OneTermEqualSelector("type", stateSecretType).String(), // or charts' own Secrets came too
	}
}

// watchDirect watches for commands beside the states, until the client's context is done.
func (c *Client) watchDirect() {
	secrets := c.metadata.Resource(corev1.SchemeGroupVersion.WithResource("secrets")).Namespace(c.cfg.Namespace)
	narrow := func(o metav1.ListOptions) metav1.ListOptions {
		s := states(c.cfg.Environment)
		o.LabelSelector, o.FieldSelector = s.LabelSelector, s.FieldSelector
		return o
	}
	lw := cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return secrets.List(ctx, narrow(o))
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return secrets.Watch(ctx, narrow(o))
		},
	}, c.metadata)
	r := cache.NewReflectorWithOptions(lw, &metav1.PartialObjectMetadata{}, c.direct,
		cache.ReflectorOptions{Name: "sluice/states", TypeDescription: "states"})
	go r.RunWithContext(c.watches.ctx)
}

// asked tells the loop that somebody has left a command on a Secret.
func (c *Client) asked(secret string) {
	c.mu.Lock()
	var name string
	for app := range c.apps {
		if c.stateName(app) == secret {
			name = app
		}
	}
	news := c.onChange
	c.mu.Unlock()
	if name != "" && news != nil {
		news(name)
	}
}

// Asker leaves commands beside the states of an environment's apps, for when git is away.
type Asker struct {
	secrets     coreclient.SecretInterface
	environment string
}

// NewAsker asks in the namespace of the states.
func NewAsker(cfg *rest.Config, namespace, environment string) (*Asker, error) {
	core, err := coreclient.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("preparing a client of %s: %w", cfg.Host, err)
	}
	return &Asker{core.Secrets(namespace), environment}, nil
}

// Apps are those that have a state, by name.
func (a *Asker) Apps(ctx context.Context) ([]string, error) {
	list, err := a.secrets.List(ctx, states(a.environment))
	if err != nil {
		return nil, fmt.Errorf("listing the states of %s: %w", a.environment, err)
	}
	var names []string
	for i := range list.Items {
		var app struct{ Name string }
		if err := json.Unmarshal(list.Items[i].Data[appData], &app); err == nil && app.Name != "" {
			names = append(names, app.Name)
		}
	}
	return names, nil
}

// ErrAsked is returned where another command is there that was not answered yet.
var ErrAsked = errors.New("another command is not answered yet")

// Ask leaves a command beside the state of an app. No two may have the same text.
func (a *Asker) Ask(ctx context.Context, app, text string) error {
	name := stateSecretName(a.environment, app)
	s, err := a.secrets.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("environment %s has no app %q here: there is no Secret %s", a.environment, app, name)
	}
	if err != nil {
		return fmt.Errorf("reading the state of %s: %w", app, err)
	}
	if s.Annotations[commandAnnotation] != "" {
		return fmt.Errorf("asking %s: %w", app, ErrAsked)
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"resourceVersion": s.ResourceVersion, "annotations": map[string]string{commandAnnotation: text},
	}})
	if err != nil {
		return err
	}
	if _, err := a.secrets.Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("asking %s: %w", app, err)
	}
	return nil
}

// Taken reports whether nothing is left to answer.
func (a *Asker) Taken(ctx context.Context, app string) (bool, error) {
	s, err := a.secrets.Get(ctx, stateSecretName(a.environment, app), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	return err == nil && s.Annotations[commandAnnotation] == "", err
}
