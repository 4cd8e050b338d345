package reconcile

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/render/release"
)

// desired is what git asks of one app, rendered. The zero value: not known.
type desired struct {
	// input is the digest of what was rendered.
	input   string
	id      rollout.Release
	release *release.Release
	policy  environments.Policy
}

// refresh renders what git asks for if that has changed. With a fault the wish is not known, and the app
// keeps its course.
func (a *Agent) refresh(ctx context.Context, w *work) (desired, error) {
	switch {
	case w.input == nil:
		return desired{}, nil
	case w.asked.release != nil && w.asked.input == w.input.Digest:
		return w.asked, nil
	}
	inFlight := w.facts.Saved.State.InFlight()
	if inFlight {
		if w.unmet.input == w.input.Digest && a.now().Before(w.unmet.until) {
			return desired{}, w.unmet.fault
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, renderTimeout)
		defer cancel()
	}
	d, err := a.wish(ctx, w)
	if inFlight && errors.Is(err, context.DeadlineExceeded) {
		// Not known yet is no fault.
		d, err = desired{}, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	ap := a.apps[w.name]
	switch {
	case ap == nil:
	case d.release == nil:
		ap.unmet = unmet{input: w.input.Digest, fault: err, until: a.now().Add(unmetPause)}
	default:
		ap.asked, ap.unmet = d, unmet{}
	}
	return d, err
}

// unmet is a wish that could not be followed.
type unmet struct {
	// input is the digest of what could not be rendered.
	input string
	// fault is why; nil while it is not known.
	fault error
	// until when a rollout under way does not try again.
	until time.Time
}

const (
	// unmetPause is how long a rollout under way goes on before a wish that could not be followed is tried again.
	unmetPause = 5 * time.Second
	// renderTimeout is how long a rollout under way is kept from its checks by a chart repository. The fetch goes on
	// meanwhile, and the next try finds what it brought.
	renderTimeout = time.Second
)

// wish renders what git asks for.
func (a *Agent) wish(ctx context.Context, w *work) (desired, error) {
	rel, policy, err := a.renderer.Release(ctx, w.commit, w.input)
	if err != nil {
		return desired{}, err
	}
	d := desired{input: w.input.Digest, release: rel, policy: policy}
	d.id = rollout.Release{Version: rel.Version, Digest: rel.Digest}
	if d.id.Commit, err = a.commitOf(ctx, w, d.id); err != nil {
		return desired{}, err
	}
	return d, nil
}

// commitOf is the commit that asked for a release. A release that is serving keeps the commit it came with:
// a rollback commit only says again what was asked before.
func (a *Agent) commitOf(ctx context.Context, w *work, id rollout.Release) (string, error) {
	s := w.facts.Saved.State
	known := []rollout.Release{s.Stable, s.Target}
	if s.Phase == rollout.RollingBack {
		known = known[:1] // who asks for what is being taken back asks anew
	}
	for _, r := range known {
		if r.Digest == id.Digest && r.Commit != "" {
			return r.Commit, nil
		}
	}
	stop := s.Stable.Commit
	if n := len(s.Rejected); n > 0 {
		stop = s.Rejected[n-1].Release.Commit
	}
	return a.git.Cause(ctx, w.name, w.commit.Commit, stop)
}

// Again renders a release whose Helm record is gone from the commit that asked for it. It implements delivery.History.
func (a *Agent) Again(ctx context.Context, name string, r rollout.Release) ([]*unstructured.Unstructured, error) {
	if r.Commit == "" {
		return nil, errors.New("no commit is known that asked for it")
	}
	src, err := a.git.At(r.Commit)
	if err != nil {
		return nil, fmt.Errorf("reading the commit that asked for it: %w", err)
	}
	for i := range src.Env.Apps {
		if src.Env.Apps[i].Name != name {
			continue
		}
		rel, _, err := a.renderer.Release(ctx, src, &src.Env.Apps[i])
		if err != nil {
			return nil, err
		}
		if rel.Digest != r.Digest {
			return nil, fmt.Errorf("commit %s renders something else by now", r.Commit)
		}
		return rel.Objects, nil
	}
	return nil, fmt.Errorf("commit %s does not list %s", r.Commit, name)
}
