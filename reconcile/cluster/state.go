package cluster

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sluice-cd/sluice/reconcile/allow"
	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/render/objects"
)

const (
	stateSecretType = allow.StateType

	appLabel         = "sluice.dev/app"
	environmentLabel = "sluice.dev/environment"
	// writerAnnotation names the last write, so that a Client knows its own when the answer was lost.
	writerAnnotation = "sluice.dev/writer"

	appData       = "app"
	stateData     = "state"
	inventoryData = "inventory"

	// statePage is how many states are listed at once.
	statePage = 250
	// maxSecret is what Kubernetes allows the data of a Secret.
	maxSecret = corev1.MaxSecretSize
	// plainState is how large a state is kept as it is, for people to read; a larger one is full of events, which git has
	// not taken for long, and is kept compressed. maxState is how large one may be by then.
	plainState = 64 << 10
	maxState   = 64 << 20
)

// LoadStates returns every app's state in the environment by the app's name, and makes the client forget what
// it knew. Apps that there are Helm records of ours of, and no state, come with a zero one. A state that can't be read is not in out; broken says why by the app's name, and LoadState tries again. It must
// not run while an app is in somebody's hands.
func (c *Client) LoadStates(ctx context.Context) (out map[string]delivery.Saved, broken map[string]error, err error) {
	out, broken = map[string]delivery.Saved{}, map[string]error{}
	apps := map[string]*memory{}
	opts := states(c.cfg.Environment)
	opts.Limit = statePage
	for {
		list, err := c.core.Secrets(c.cfg.Namespace).List(ctx, opts)
		if err != nil {
			return nil, nil, fmt.Errorf("listing the states of %s: %w", c.cfg.Environment, err)
		}
		for i := range list.Items {
			saved, m, err := c.decodeState(&list.Items[i])
			switch {
			case err != nil && saved.App.Name == "":
				return nil, nil, err // nobody knows which app must be left alone
			case err != nil:
				broken[saved.App.Name] = err
			case m != nil:
				out[saved.App.Name], apps[saved.App.Name] = saved, m
			}
		}
		if opts.Continue = list.Continue; opts.Continue == "" {
			break
		}
	}
	lost, err := c.orphans(ctx, out, broken)
	if err != nil {
		return nil, nil, err
	}
	for _, app := range lost {
		out[app.Name] = delivery.Saved{App: app}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.apps, c.claims = apps, map[objects.Key]claim{}
	for name, m := range apps {
		for k := range m.items {
			c.claims[k] = claim{owner: name}
		}
	}
	c.watching.Do(c.watchDirect)
	return out, broken, nil
}

// LoadState returns an app's state as it is after ErrConflict, and makes the client go by that. It must be called by
// whoever has the app. Found is false when the state was deleted: then what the client knows of the app stays, and the
// next SaveState makes the state anew.
func (c *Client) LoadState(ctx context.Context, app delivery.App) (s delivery.Saved, found bool, err error) {
	secret, err := c.core.Secrets(c.cfg.Namespace).Get(ctx, c.stateName(app.Name), metav1.GetOptions{})
	c.releases.forget(app)
	if apierrors.IsNotFound(err) {
		m := c.of(app)
		c.mu.Lock()
		defer c.mu.Unlock()
		m.version, m.unsaved, m.attempts = "", true, nil
		return delivery.Saved{}, false, nil
	}
	if err != nil {
		return delivery.Saved{}, false, fmt.Errorf("reading the state of %s: %w", app.Name, err)
	}
	saved, m, err := c.decodeState(secret)
	if err != nil {
		return delivery.Saved{}, false, err
	}
	if m == nil {
		return delivery.Saved{}, false, fmt.Errorf("reading the state of %s: Secret %s/%s is none of Sluice's", app.Name, secret.Namespace, secret.Name)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.apps[app.Name]; old != nil {
		for k := range old.items {
			c.release(app.Name, k)
		}
	}
	c.apps[app.Name] = m
	for k := range m.items {
		if c.claims[k].owner == "" {
			c.claims[k] = claim{owner: app.Name, contender: c.claims[k].contender}
		}
	}
	return saved, true, nil
}

// decodeState reads one Secret; a Secret that is none of ours gives no memory.
func (c *Client) decodeState(s *corev1.Secret) (delivery.Saved, *memory, error) {
	if s.Type != stateSecretType {
		return delivery.Saved{}, nil, nil
	}
	var saved delivery.Saved
	err := json.Unmarshal(s.Data[appData], &saved.App)
	if label := s.Labels[appLabel]; err != nil && s.Name == c.stateName(label) {
		saved.App = delivery.App{Name: label}
	} else if err == nil && s.Name != c.stateName(saved.App.Name) {
		return saved, nil, nil
	}
	m := newMemory(saved.App)
	m.version, m.stored = s.ResourceVersion, digest(s.Data[stateData])
	state, fault := unpacked(s.Data[stateData])
	if err = cmp.Or(err, fault); err == nil {
		err = cmp.Or(json.Unmarshal(state, &saved.State), m.decode(s.Data[inventoryData]))
	}
	if err != nil {
		return saved, nil, fmt.Errorf("%w in Secret %s/%s: %w: restore the Secret, or delete it, and what serves is taken over as it is",
			delivery.ErrBrokenState, s.Namespace, s.Name, err)
	}
	return saved, m, nil
}

// SaveState writes an app's state, and the inventory as far as it is known. It returns ErrConflict when somebody
// else has written it since it was loaded. When it returns nil the state is in the cluster.
func (c *Client) SaveState(ctx context.Context, s delivery.Saved) (delivery.Saved, error) {
	state, err := json.Marshal(s.State)
	if err != nil {
		return s, fmt.Errorf("encoding the state of %s: %w", s.App.Name, err)
	}
	if state, err = packed(state); err != nil {
		return s, fmt.Errorf("encoding the state of %s: %w", s.App.Name, err)
	}
	return s, c.write(ctx, c.of(s.App), state, s.State.LastDirect)
}

// gzipMagic begins what packed has compressed; no JSON begins so.
var gzipMagic = []byte{0x1f, 0x8b}

// packed compresses a state that is large.
func packed(state []byte) ([]byte, error) {
	if len(state) <= plainState {
		return state, nil
	}
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(state); err != nil {
		return nil, err
	}
	err := z.Close()
	return out.Bytes(), err
}

// unpacked reverses packed.
func unpacked(b []byte) ([]byte, error) {
	if !bytes.HasPrefix(b, gzipMagic) {
		return b, nil
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	state, err := io.ReadAll(io.LimitReader(z, maxState+1))
	if err == nil && len(state) > maxState {
		err = fmt.Errorf("it is larger than %d bytes", maxState)
	}
	return state, err
}

// write saves the inventory, and the state unless it is nil: then the saved one stays. taken is the command beside it that the
// state has taken last.
func (c *Client) write(ctx context.Context, m *memory, state []byte, taken string) error {
	if err := c.ensureNamespace(ctx, c.cfg.Namespace); err != nil {
		return err
	}
	c.mu.Lock()
	version := m.version
	inventory, err := m.encode()
	if version == "" && state == nil {
		state = []byte("{}")
	}
	try := m.attempt(c.instance, state, inventory)
	c.mu.Unlock()
	if err != nil {
		return err
	}
	if n := len(state) + len(inventory); n > maxSecret {
		return fmt.Errorf("saving the state of %s: %w: %d bytes", m.app.Name, delivery.ErrStateTooLarge, n)
	}
	secret, err := c.stateSecret(m.app, version, state, inventory)
	if err != nil {
		return err
	}
	secret.Annotations[writerAnnotation] = try
	if id, _ := c.direct.of(secret.Name); id != "" && id == taken {
		secret.Annotations[commandAnnotation] = "" // one that came since is safe: it made another version
	}
	written, err := c.send(ctx, m, secret)
	if err != nil {
		c.lostNamespace(err)
		return fmt.Errorf("saving the state of %s: %w", m.app.Name, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	m.version, m.unsaved, m.attempts = written.ResourceVersion, false, nil
	m.stored = digest(written.Data[stateData])
	return nil
}

// attempt is a write of which it is not known whether it was done.
type attempt struct {
	// name of the write, unique in the world.
	name string
	// Digests of what was written; no state: the one before stays.
	state, inventory string
}

// maxAttempts is how many writes without an answer are remembered.
const maxAttempts = 64

// attempt remembers a write that is about to be tried, and names it. Client.mu is held.
func (m *memory) attempt(instance string, state, inventory []byte) (name string) {
	m.writes++
	try := attempt{name: instance + "." + strconv.Itoa(m.writes), inventory: digest(inventory)}
	if state != nil {
		try.state = digest(state)
	}
	m.attempts = append(m.attempts, try)
	if extra := len(m.attempts) - maxAttempts; extra > 0 {
		m.attempts = slices.Delete(m.attempts, 0, extra)
	}
	return try.name
}

// wrote reports whether a Secret is as one of the attempts left it: named by it, which people who edit it leave as it is, and
// with its very content. Client.mu is held.
func (m *memory) wrote(s *corev1.Secret) bool {
	state := digest(s.Data[stateData])
	for i, try := range m.attempts {
		if try.name != s.Annotations[writerAnnotation] || try.inventory != digest(s.Data[inventoryData]) {
			continue
		}
		// What an inventory was written beside is the newest state that had got there by then.
		return state == try.state || try.state == "" && (state == m.stored ||
			slices.ContainsFunc(m.attempts[:i], func(before attempt) bool { return before.state == state }))
	}
	return false
}

func (c *Client) stateSecret(app delivery.App, version string, state, inventory []byte) (*corev1.Secret, error) {
	name, err := json.Marshal(app)
	if err != nil {
		return nil, fmt.Errorf("encoding the name of %s: %w", app.Name, err)
	}
	data := map[string][]byte{appData: name, inventoryData: inventory}
	if state != nil {
		data[stateData] = state
	}
	return &corev1.Secret{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{
			Name: c.stateName(app.Name), Namespace: c.cfg.Namespace, ResourceVersion: version,
			Labels: map[string]string{
				managedByLabel: "sluice", appLabel: labelValue(app.Name), environmentLabel: labelValue(c.cfg.Environment),
			},
			Annotations: map[string]string{},
		},
		Type: stateSecretType,
		Data: data,
	}, nil
}

// send creates the Secret when it has no version yet, else merges it into the one of that version. When the
// server says that somebody else was faster, it may have been ourselves in a write whose answer was lost.
func (c *Client) send(ctx context.Context, m *memory, s *corev1.Secret) (*corev1.Secret, error) {
	written, err := c.sendOnce(ctx, s)
	if !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
		return written, err
	}
	now, getErr := c.core.Secrets(s.Namespace).Get(ctx, s.Name, metav1.GetOptions{})
	if getErr != nil {
		return nil, getErr
	}
	c.mu.Lock()
	ours := m.wrote(now)
	c.mu.Unlock()
	if !ours {
		return nil, fmt.Errorf("%w (Secret %s/%s)", delivery.ErrConflict, s.Namespace, s.Name)
	}
	s.ResourceVersion = now.ResourceVersion
	written, err = c.sendOnce(ctx, s)
	if apierrors.IsConflict(err) {
		return nil, fmt.Errorf("%w (Secret %s/%s)", delivery.ErrConflict, s.Namespace, s.Name)
	}
	return written, err
}

func (c *Client) sendOnce(ctx context.Context, s *corev1.Secret) (*corev1.Secret, error) {
	secrets := c.core.Secrets(s.Namespace)
	if s.ResourceVersion == "" {
		return secrets.Create(ctx, s, metav1.CreateOptions{FieldManager: c.cfg.FieldManager})
	}
	patch, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encoding Secret %s: %w", s.Name, err)
	}
	written, err := secrets.Patch(ctx, s.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: c.cfg.FieldManager})
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("%w: Secret %s/%s was deleted", delivery.ErrConflict, s.Namespace, s.Name)
	}
	return written, err
}

// DeleteState forgets an app whose objects are gone, its Helm release with it.
func (c *Client) DeleteState(ctx context.Context, s delivery.Saved) error {
	if err := c.releases.uninstall(ctx, s.App); err != nil {
		return err
	}
	m := c.of(s.App)
	c.mu.Lock()
	version := m.version
	c.mu.Unlock()
	if version != "" {
		opts := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &version}}
		err := c.core.Secrets(c.cfg.Namespace).Delete(ctx, c.stateName(s.App.Name), opts)
		if apierrors.IsConflict(err) {
			err = delivery.ErrConflict
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("deleting the state of %s: %w", s.App.Name, err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for k := range m.items {
		c.release(s.App.Name, k)
	}
	delete(c.apps, s.App.Name)
	return nil
}

// stateName is the name of an app's Secret, unique for the environment and the app.
func (c *Client) stateName(app string) string { return stateSecretName(c.cfg.Environment, app) }

func stateSecretName(environment, app string) string {
	return "sluice." + objectName(environment) + "." + objectName(app)
}

// objectName makes a name that Kubernetes allows; a changed or shortened one gets a hash so that it stays unique.
func objectName(s string) string {
	const longest = 100
	out := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		default:
			return '-'
		}
	}, s)
	out = strings.Trim(out, "-")
	if out == s && s != "" && len(s) <= longest {
		return s
	}
	return strings.TrimLeft(out[:min(len(out), longest)]+"-"+short(s), "-")
}

// labelValue makes a value that a label may have, in the same manner.
func labelValue(s string) string {
	const longest = 63
	if out := objectName(s); len(out) <= longest {
		return out
	}
	return objectName(s)[:longest-9] + "-" + short(s)
}

func short(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:4])
}
