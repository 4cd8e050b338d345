package cluster

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/storage"
	"helm.sh/helm/v3/pkg/storage/driver"
	helmtime "helm.sh/helm/v3/pkg/time"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	rendered "github.com/sluice-cd/sluice/render/release"
)

const (
	helmSecretType = "helm.sh/release.v1"
	// digestLabel marks a release record as Sluice's, and says which release it is of; stampLabel and commitLabel tell the
	// rest of a rollout.Release.
	digestLabel = "sluice.dev/digest"
	stampLabel  = "sluice.dev/stamp"
	commitLabel = "sluice.dev/commit"
	// revisionLabel is the record's own number. helm upgrade copies a record's labels to the next one.
	revisionLabel = "sluice.dev/revision"
	// restoresLabel marks a record that says again what another of its release says, and holds that one's number.
	restoresLabel = "sluice.dev/restores"
	// maxHistory is how many records of a release are kept.
	maxHistory = 10
)

// revision is one record of a Helm release as its Secret's labels tell.
type revision struct {
	number int
	status release.Status
	// digest of the rollout.Release, its stamp and its commit; no digest: another Helm client wrote the record.
	digest, stamp, commit string
	// restores is the revision that it says again; 0: none.
	restores int
}

// of reports whether it is the record of a release.
func (rev revision) of(id rollout.Release) bool {
	return rev.digest == digestText(id.Digest) && rev.stamp == id.Stamp && rev.commit == labelOf(id.Commit)
}

func (rev revision) ours() bool { return rev.digest != "" }

// is reports whether it says what the record of that number says: it is that one, or says it again.
func (rev revision) is(number int) bool {
	return number != 0 && (rev.number == number || rev.restores == number)
}

// releases keeps Helm release records. Several apps may use it at once, each its own release.
type releases struct {
	c *Client

	mu sync.Mutex
	// known histories by namespace/name, oldest first; an entry is dropped when a write of it fails. fresh are those that the
	// server was asked for a moment ago.
	known map[string][]revision
	fresh map[string]time.Time
	// wrote is when we last wrote a record of a release: a listing from before that does not know it.
	wrote map[string]time.Time
	// listings of the records of whole namespaces, by namespace, see listed.
	listings listings[string, map[string][]revision]
	// pending is the newest record that we have written, by namespace/name, until something has become of it.
	pending map[string]*release.Release
	// objects of releases by namespace/name and revision, decoded: a rollout reads what serves in each look. When the records
	// are settled all go that the state of a rollout under way does not name.
	objects map[string]map[int][]*unstructured.Unstructured
}

func newReleases(c *Client) *releases {
	return &releases{
		c: c, known: map[string][]revision{}, fresh: map[string]time.Time{}, wrote: map[string]time.Time{},
		pending: map[string]*release.Release{}, objects: map[string]map[int][]*unstructured.Unstructured{},
	}
}

// AddRelease keeps a rendered release as a pending Helm record and returns its revision, so that its objects can
// be had again while git and the chart repository are away. A record that an earlier call made for the same
// release, and that nothing has become of yet, is used again. The revision is later than after, the latest that the
// app's state names: its record may be gone, as after helm uninstall, but no other release may go by its number.
func (c *Client) AddRelease(
	ctx context.Context, app delivery.App, id rollout.Release, rel *rendered.Release, after int,
) (int, error) {
	n, err := c.releases.add(ctx, app, id, rel, after)
	if err != nil {
		return 0, fmt.Errorf("adding to Helm release %s/%s: %w", app.Namespace, app.ReleaseName, err)
	}
	return n, nil
}

// SettleReleases makes an app's Helm records say what the state says: the stable release is deployed, the one under way
// pending, failed ones are failed, and say why. At rest the newest record is that of what serves, for that is the one that
// helm list, status and get look at: after a failed rollout, what serves is said again, as helm rollback does. It asks the
// API server nothing when they do already.
func (c *Client) SettleReleases(ctx context.Context, app delivery.App, s rollout.State) error {
	if err := c.releases.settle(ctx, app, s); err != nil {
		return fmt.Errorf("settling Helm release %s/%s: %w", app.Namespace, app.ReleaseName, err)
	}
	return nil
}

// ReleaseObjects returns the objects of a release from its Helm record, CRDs first. They are shared and must not
// be changed. It returns ErrReleaseLost when the record is gone, or can't be decoded.
func (c *Client) ReleaseObjects(ctx context.Context, app delivery.App, number int) ([]*unstructured.Unstructured, error) {
	objs, err := c.releases.load(ctx, app, number)
	if err != nil {
		return nil, fmt.Errorf("reading revision %d of Helm release %s/%s: %w", number, app.Namespace, app.ReleaseName, err)
	}
	return objs, nil
}

// Adopt finds what there is of an app that has no state. What Helm, Flux or jx deployed before Sluice came is its stable
// release. Where the records are ours the state was lost: then the objects that carry the app's labels are put into its
// inventory.
func (c *Client) Adopt(ctx context.Context, app delivery.App) (rollout.Found, error) {
	found, err := c.releases.adopt(ctx, app)
	if err == nil && found.Lost {
		found.Canary, err = c.recallReleases(ctx, app, found)
	}
	if err != nil {
		return rollout.Found{}, fmt.Errorf("adopting Helm release %s/%s: %w", app.Namespace, app.ReleaseName, err)
	}
	return found, nil
}

// recallReleases is recall with what the records still know of the releases' kinds.
func (c *Client) recallReleases(ctx context.Context, app delivery.App, found rollout.Found) (canary bool, err error) {
	var releases [][]*unstructured.Unstructured
	for _, n := range []int{found.Stable.Revision, found.Target.Revision, found.Revision} {
		if n == 0 {
			continue
		}
		objs, err := c.ReleaseObjects(ctx, app, n)
		if err != nil && !errors.Is(err, delivery.ErrReleaseLost) {
			return false, err
		}
		releases = append(releases, objs)
	}
	return c.recall(ctx, app, releases...)
}

func (r *releases) add(
	ctx context.Context, app delivery.App, id rollout.Release, rel *rendered.Release, after int,
) (int, error) {
	if err := r.c.ensureNamespace(ctx, app.Namespace); err != nil {
		return 0, err
	}
	history, err := r.recent(ctx, app)
	if err != nil {
		return 0, err
	}
	last := revision{}
	if len(history) > 0 {
		last = history[len(history)-1]
	}
	switch {
	case last.status.IsPending() && last.of(id) && last.number > after:
		return last.number, nil
	case last.status.IsPending() && !last.ours():
		return 0, busy(last)
	}
	first, err := r.firstDeployed(ctx, app, last.number)
	if err != nil {
		return 0, err
	}
	record, err := newRecord(app, rel, max(last.number, after)+1, first, time.Now())
	if err != nil {
		return 0, err
	}
	record.Labels = r.labelsOf(app, id)
	record.Labels[revisionLabel] = strconv.Itoa(record.Version)
	err = r.driver(ctx, app, record.Version).Create(recordName(app, record.Version), record)
	r.written(app)
	if err != nil {
		r.c.lostNamespace(err)
		r.forget(app)
		return 0, tooLarge(err)
	}
	r.drop(app, func(n int) bool { return n == record.Version })
	r.keep(app, record)
	history = append(history, revisionOf(record.Version, record.Info.Status, record.Labels))
	r.remember(app, history)
	return record.Version, nil
}

func busy(last revision) error {
	return fmt.Errorf("%w: revision %d is %s", delivery.ErrHelmBusy, last.number, last.status)
}

// tooLarge recognises the API server's and etcd's ways of refusing a large Secret.
func tooLarge(err error) error {
	text := err.Error()
	if apierrors.IsRequestEntityTooLargeError(err) || strings.Contains(text, "Too long") || strings.Contains(text, "request is too large") ||
		strings.Contains(text, "trying to send message larger than max") {
		return delivery.ErrReleaseTooLarge
	}
	return err
}

func newRecord(app delivery.App, rel *rendered.Release, number int, first helmtime.Time, now time.Time) (*release.Release, error) {
	manifest, err := manifestOf(rel)
	if err != nil {
		return nil, err
	}
	status, doing := release.StatusPendingUpgrade, "Preparing upgrade"
	if number == 1 {
		status, doing = release.StatusPendingInstall, "Initial install underway"
	}
	if first.IsZero() {
		first = helmtime.Time{Time: now}
	}
	record := &release.Release{
		Name: app.ReleaseName, Namespace: app.Namespace, Version: number, Chart: rel.Chart, Config: rel.Config,
		Manifest: manifest, Hooks: hooksOf(rel),
		Info: &release.Info{FirstDeployed: first, LastDeployed: helmtime.Time{Time: now}, Status: status, Description: doing},
	}
	return record, nil
}

// labelsOf a record of ours. The app is named where its name is a label as it is, so that nobody takes one for another.
func (r *releases) labelsOf(app delivery.App, id rollout.Release) map[string]string {
	out := map[string]string{digestLabel: digestText(id.Digest), environmentLabel: labelValue(r.c.cfg.Environment)}
	if labelValue(app.Name) == app.Name {
		out[appLabel] = app.Name
	}
	if id.Stamp != "" {
		out[stampLabel] = id.Stamp
	}
	if commit := labelOf(id.Commit); commit != "" {
		out[commitLabel] = commit
	}
	return out
}

// labelOf is a commit's hash; empty for what no label can hold.
func labelOf(commit string) string {
	if len(validation.IsValidLabelValue(commit)) > 0 {
		return ""
	}
	return commit
}

func revisionOf(number int, status release.Status, labels map[string]string) revision {
	if n := labels[revisionLabel]; n != "" && n != strconv.Itoa(number) {
		return revision{number: number, status: status}
	}
	restores, _ := strconv.Atoi(labels[restoresLabel])
	return revision{
		number: number, status: status, digest: labels[digestLabel], stamp: labels[stampLabel], commit: labels[commitLabel],
		restores: restores,
	}
}

func hooksOf(rel *rendered.Release) []*release.Hook {
	var out []*release.Hook
	for _, h := range rel.Hooks {
		hook := &release.Hook{Name: h.Name, Kind: h.Kind, Path: h.Path, Weight: h.Weight, Manifest: h.Manifest}
		for _, e := range h.Events {
			hook.Events = append(hook.Events, release.HookEvent(e))
		}
		for _, p := range h.DeletePolicies {
			hook.DeletePolicies = append(hook.DeletePolicies, release.HookDeletePolicy(p))
		}
		out = append(out, hook)
	}
	return out
}

// firstDeployed reads when the release was first deployed from its newest record.
func (r *releases) firstDeployed(ctx context.Context, app delivery.App, newest int) (helmtime.Time, error) {
	if newest == 0 {
		return helmtime.Time{}, nil
	}
	record, err := r.get(ctx, app, newest)
	if errors.Is(err, delivery.ErrReleaseLost) {
		return helmtime.Time{}, nil
	}
	if err != nil {
		return helmtime.Time{}, err
	}
	return record.Info.FirstDeployed, nil
}

// settle updates what differs. The old deployed record is superseded before the new one is deployed, as Helm
// does it.
func (r *releases) settle(ctx context.Context, app delivery.App, s rollout.State) error {
	history, err := r.history(ctx, app)
	if err != nil {
		return err
	}
	later, err := r.restore(ctx, app, history, s)
	if err != nil {
		r.forget(app)
		return err
	}
	serving := servingOf(later, s)
	for pass := range 2 {
		for i := range later {
			want, why := wantedStatus(later[i], s, serving)
			if want == later[i].status || (want == release.StatusDeployed) != (pass == 1) {
				continue
			}
			if err := r.setStatus(ctx, app, later[i].number, want, why); err != nil {
				r.forget(app)
				return err
			}
			later[i].status = want
		}
	}
	r.remember(app, later)
	r.drop(app, func(n int) bool { return !s.InFlight() || n != s.Stable.Revision && n != s.Target.Revision })
	return r.trim(ctx, app, later, s)
}

// servingOf is the number of the record by which what serves is known: the last that says it.
func servingOf(history []revision, s rollout.State) int {
	for _, rev := range slices.Backward(history) {
		if rev.is(s.Stable.Revision) {
			return rev.number
		}
	}
	return s.Stable.Revision
}

// restore says again what serves, as the newest record, where the newest is of something that does not: of a release that
// failed or was taken back, or of what another Helm client made of the app. An operation of such a client is left to end.
func (r *releases) restore(ctx context.Context, app delivery.App, history []revision, s rollout.State) ([]revision, error) {
	if s.InFlight() || s.Stable.Revision == 0 || len(history) == 0 {
		return history, nil
	}
	last := history[len(history)-1]
	if last.is(s.Stable.Revision) || last.status.IsPending() && !last.ours() {
		return history, nil
	}
	served, err := r.get(ctx, app, s.Stable.Revision)
	if errors.Is(err, delivery.ErrReleaseLost) {
		return history, nil // there is nothing to say it by
	}
	if err != nil {
		return nil, err
	}
	record, info := *served, *served.Info
	record.Version, record.Info, record.Labels = last.number+1, &info, r.labelsOf(app, s.Stable)
	record.Labels[revisionLabel] = strconv.Itoa(record.Version)
	record.Labels[restoresLabel] = strconv.Itoa(s.Stable.Revision)
	info.LastDeployed, info.Deleted = helmtime.Time{Time: time.Now()}, helmtime.Time{}
	record.SetStatus(release.StatusDeployed, fmt.Sprintf("Rollback to %d", s.Stable.Revision))
	err = r.driver(ctx, app, record.Version).Create(recordName(app, record.Version), &record)
	r.written(app)
	if err != nil {
		return nil, fmt.Errorf("recording the rollback to revision %d: %w", s.Stable.Revision, tooLarge(err))
	}
	return append(history, revisionOf(record.Version, record.Info.Status, record.Labels)), nil
}

// wantedStatus of a record, and why, in Helm's words where it has some. Serving is the number of that of what serves.
func wantedStatus(rev revision, s rollout.State, serving int) (release.Status, string) {
	switch {
	case s.Phase == rollout.Removing && (rev.number == serving || rev.number == s.Target.Revision):
		return release.StatusUninstalling, "Deletion in progress (or silently failed)"
	case rev.number == serving && rev.restores != 0:
		return release.StatusDeployed, fmt.Sprintf("Rollback to %d", rev.restores)
	case rev.number == serving && rev.number == 1:
		return release.StatusDeployed, "Install complete"
	case rev.number == serving:
		return release.StatusDeployed, "Upgrade complete"
	case rev.number == s.Target.Revision && rev.number < serving && !rev.status.IsPending():
		return rev.status, "" // it served before, and is gone back to; its end is a record of its own
	case rev.number == s.Target.Revision && s.Stable.IsZero():
		return release.StatusPendingInstall, "Initial install underway"
	case rev.number == s.Target.Revision:
		return release.StatusPendingUpgrade, "Preparing upgrade"
	case rev.status == release.StatusDeployed && rejected(rev, s) != "":
		return release.StatusFailed, rejected(rev, s)
	case rev.status == release.StatusDeployed:
		return release.StatusSuperseded, ""
	case rev.status.IsPending() && rev.ours():
		return release.StatusFailed, whyFailed(rev, s)
	default:
		return rev.status, ""
	}
}

// rejected says why a release was; empty: it was not.
func rejected(rev revision, s rollout.State) string {
	for _, rejected := range slices.Backward(s.Rejected) {
		if rev.is(rejected.Release.Revision) {
			return "Rolled back: " + rejected.Reason
		}
	}
	return ""
}

func whyFailed(rev revision, s rollout.State) string {
	if why := rejected(rev, s); why != "" {
		return why
	}
	if s.Outcome == rollout.Aborted || s.Outcome == rollout.Recovered {
		return string(s.Outcome) + ": " + s.Reason
	}
	return "Superseded before it was promoted"
}

func (r *releases) setStatus(ctx context.Context, app delivery.App, number int, status release.Status, why string) error {
	record, err := r.get(ctx, app, number)
	if errors.Is(err, delivery.ErrReleaseLost) {
		return nil
	}
	if err != nil {
		return err
	}
	if why == "" {
		why = record.Info.Description
	}
	record.SetStatus(status, why)
	err = r.driver(ctx, app, number).Update(recordName(app, number), record)
	r.written(app)
	if err != nil || !status.IsPending() {
		r.keep(app, nil)
	}
	if apierrors.IsNotFound(err) {
		return nil // it is lost, and nothing is to be said of it
	}
	return err
}

// keep remembers a record that is under way; nil: none.
func (r *releases) keep(app delivery.App, record *release.Release) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if record == nil {
		delete(r.pending, releaseKey(app))
	} else {
		r.pending[releaseKey(app)] = record
	}
}

// trim deletes the oldest records beyond the limit, and never one that serves, may serve, or is somebody else's
// operation.
func (r *releases) trim(ctx context.Context, app delivery.App, history []revision, s rollout.State) error {
	excess := len(history) - maxHistory
	if excess <= 0 {
		return nil
	}
	kept := make([]revision, 0, len(history))
	for _, rev := range history {
		needed := rev.number == s.Stable.Revision || rev.number == s.Target.Revision ||
			rev.status == release.StatusDeployed || rev.status.IsPending()
		if excess == 0 || needed {
			kept = append(kept, rev)
			continue
		}
		if err := r.delete(ctx, app, rev.number); err != nil {
			r.forget(app)
			return err
		}
		excess--
	}
	r.remember(app, kept)
	return nil
}

func (r *releases) delete(ctx context.Context, app delivery.App, number int) error {
	err := r.c.core.Secrets(app.Namespace).Delete(ctx, recordName(app, number), metav1.DeleteOptions{})
	r.written(app)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting the record of revision %d: %w", number, err)
	}
	r.drop(app, func(n int) bool { return n == number })
	return nil
}

// uninstall deletes the whole history, as helm uninstall does, if any of it is ours.
func (r *releases) uninstall(ctx context.Context, app delivery.App) error {
	history, err := r.list(ctx, app)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(history, revision.ours) {
		return nil
	}
	defer r.forget(app)
	for _, rev := range history {
		if err := r.delete(ctx, app, rev.number); err != nil {
			return fmt.Errorf("uninstalling Helm release %s/%s: %w", app.Namespace, app.ReleaseName, err)
		}
	}
	return nil
}

func (r *releases) adopt(ctx context.Context, app delivery.App) (found rollout.Found, err error) {
	history, err := r.listed(ctx, app)
	if err != nil || len(history) == 0 {
		return found, err
	}
	last := history[len(history)-1]
	if last.status.IsPending() && !last.ours() {
		r.listings.forget(app.Namespace, nil) // whoever is at it may be done soon
		return found, busy(last)
	}
	found.Revision = last.number
	// A record of ours after another tool's is of a release that was about to begin when there was no state yet.
	found.Lost = last.ours()
	for _, rev := range slices.Backward(history) {
		if rev.status == release.StatusDeployed {
			found.Lost = found.Lost && rev.ours()
			if found.Stable, err = r.release(ctx, app, rev); err != nil {
				return found, err
			}
			break
		}
	}
	for _, rev := range slices.Backward(history) {
		if found.Lost && rev.number > found.Stable.Revision && (rev.status.IsPending() || rev.status == release.StatusUninstalling) {
			found.Removing = rev.status == release.StatusUninstalling
			found.Target, err = r.release(ctx, app, rev)
			break
		}
	}
	return found, err
}

// release that a record is of.
func (r *releases) release(ctx context.Context, app delivery.App, rev revision) (rollout.Release, error) {
	record, err := r.get(ctx, app, rev.number)
	if err != nil {
		return rollout.Release{}, err
	}
	found := rollout.Release{Revision: rev.number, Digest: digestOf(rev.digest), Stamp: rev.stamp, Commit: rev.commit}
	if record.Chart != nil && record.Chart.Metadata != nil {
		found.Version = record.Chart.Metadata.Version
	}
	if found.Digest == "" {
		found.Digest = adoptedDigest(found.Version, record.Manifest)
	}
	return found, nil
}

// adoptedDigest identifies a release that another Helm client rendered. It equals no digest of ours; whether the
// objects do is for project.Compare to say.
func adoptedDigest(version, manifest string) string {
	h := sha256.Sum256([]byte(version + "\n" + manifest))
	return hex.EncodeToString(h[:])
}

func (r *releases) load(ctx context.Context, app delivery.App, number int) ([]*unstructured.Unstructured, error) {
	r.mu.Lock()
	objs, ok := r.objects[releaseKey(app)][number]
	r.mu.Unlock()
	if ok {
		return objs, nil
	}
	record, err := r.get(ctx, app, number)
	if err != nil {
		return nil, err
	}
	if objs, err = recordObjects(record, r.c.Namespaced); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.objects[releaseKey(app)] == nil {
		r.objects[releaseKey(app)] = map[int][]*unstructured.Unstructured{}
	}
	r.objects[releaseKey(app)][number] = objs
	return objs, nil
}

// history is what is known of a release, or else the API server's answer.
func (r *releases) history(ctx context.Context, app delivery.App) ([]revision, error) {
	r.mu.Lock()
	known, ok := r.known[releaseKey(app)]
	r.mu.Unlock()
	if ok {
		return slices.Clone(known), nil
	}
	return r.list(ctx, app)
}

func (r *releases) remember(app delivery.App, h []revision) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known[releaseKey(app)] = slices.Clone(h)
}

func (r *releases) forget(app delivery.App) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.known, releaseKey(app))
	delete(r.fresh, releaseKey(app))
	delete(r.pending, releaseKey(app))
	r.listings.forget(app.Namespace, nil)
}

// written notes that a record may have been written by now.
func (r *releases) written(app delivery.App) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wrote[releaseKey(app)] = time.Now()
}

// recent is the history as it was at most a moment ago.
func (r *releases) recent(ctx context.Context, app delivery.App) ([]revision, error) {
	r.mu.Lock()
	known, ok := r.known[releaseKey(app)]
	ok = ok && time.Since(r.fresh[releaseKey(app)]) < listingsFresh
	r.mu.Unlock()
	if ok {
		return slices.Clone(known), nil
	}
	return r.listed(ctx, app)
}

// listed is the history of a release as a listing of the whole namespace has it, for releases begin, and new apps come, in
// hundreds. Should another Helm client have written a record since, ours is refused, for its number is taken, and all is asked
// for anew.
func (r *releases) listed(ctx context.Context, app delivery.App) ([]revision, error) {
	byRelease, made, err := r.listings.get(app.Namespace, func() (map[string][]revision, error) {
		return r.records(ctx, app.Namespace, labels.Set{"owner": "helm"})
	})
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	outdated := r.wrote[releaseKey(app)].After(made)
	r.mu.Unlock()
	if outdated {
		return r.list(ctx, app)
	}
	history := byRelease[app.ReleaseName]
	r.remember(app, history)
	r.mu.Lock()
	r.fresh[releaseKey(app)] = made
	r.mu.Unlock()
	return slices.Clone(history), nil
}

// list asks for a release's records, oldest first.
func (r *releases) list(ctx context.Context, app delivery.App) ([]revision, error) {
	found, err := r.records(ctx, app.Namespace, labels.Set{"owner": "helm", "name": app.ReleaseName})
	if err != nil {
		return nil, err
	}
	r.remember(app, found[app.ReleaseName])
	return found[app.ReleaseName], nil
}

// records asks for the labels of records in a namespace, by the release's name, oldest first. Their content is large and stays
// where it is.
func (r *releases) records(ctx context.Context, namespace string, which labels.Set) (map[string][]revision, error) {
	opts := metav1.ListOptions{LabelSelector: which.String(), Limit: statePage}
	byRelease := map[string][]revision{}
	for {
		list, err := r.c.metadata.Resource(corev1.SchemeGroupVersion.WithResource("secrets")).Namespace(namespace).List(ctx, opts)
		if err != nil {
			return nil, fmt.Errorf("listing its records: %w", err)
		}
		for _, s := range list.Items {
			name := s.Labels["name"]
			number, err := strconv.Atoi(s.Labels["version"])
			if err != nil || s.Name != recordName(delivery.App{ReleaseName: name}, number) {
				continue
			}
			byRelease[name] = append(byRelease[name], revisionOf(number, release.Status(s.Labels["status"]), s.Labels))
		}
		if opts.Continue = list.Continue; opts.Continue == "" {
			break
		}
	}
	for _, history := range byRelease {
		slices.SortFunc(history, func(a, b revision) int { return cmp.Compare(a.number, b.number) })
	}
	return byRelease, nil
}

// get reads one record. It goes by way of a query because the driver's Get fails badly on a record that can't
// be decoded; the query is answered with the one Secret that can match, so that it does not cost a look at all of them.
func (r *releases) get(ctx context.Context, app delivery.App, number int) (*release.Release, error) {
	r.mu.Lock()
	pending := r.pending[releaseKey(app)]
	r.mu.Unlock()
	if pending != nil && pending.Version == number {
		return pending, nil
	}
	found, err := r.driver(ctx, app, number).Query(map[string]string{
		"owner": "helm", "name": app.ReleaseName, "version": strconv.Itoa(number),
	})
	if errors.Is(err, driver.ErrReleaseNotFound) {
		return nil, fmt.Errorf("reading the record of revision %d: %w (%w)", number, delivery.ErrReleaseLost, err)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the record of revision %d: %w", number, err)
	}
	for _, record := range found {
		if record.Version == number && record.Info != nil {
			return record, nil
		}
	}
	return nil, fmt.Errorf("decoding the record of revision %d: %w", number, delivery.ErrReleaseLost)
}

func releaseKey(app delivery.App) string { return app.Namespace + "/" + app.ReleaseName }

// drop forgets the objects of some revisions.
func (r *releases) drop(app delivery.App, gone func(number int) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.objects[releaseKey(app)], func(n int, _ []*unstructured.Unstructured) bool { return gone(n) })
	if len(r.objects[releaseKey(app)]) == 0 {
		delete(r.objects, releaseKey(app))
	}
}

func recordName(app delivery.App, number int) string {
	return storage.HelmStorageType + "." + app.ReleaseName + ".v" + strconv.Itoa(number)
}

// driver is Helm's, for one record.
func (r *releases) driver(ctx context.Context, app delivery.App, number int) *driver.Secrets {
	return driver.NewSecrets(boundSecrets{SecretInterface: r.c.core.Secrets(app.Namespace), ctx: ctx, only: recordName(app, number)})
}

// boundSecrets gives Helm's driver, which knows no contexts, the caller's.
type boundSecrets struct {
	coreclient.SecretInterface
	ctx context.Context //nolint:containedctx // it lives for one call
	// only is the one Secret that List finds.
	only string
}

func (b boundSecrets) Create(_ context.Context, s *corev1.Secret, o metav1.CreateOptions) (*corev1.Secret, error) {
	return b.SecretInterface.Create(b.ctx, s, o)
}

func (b boundSecrets) Update(_ context.Context, s *corev1.Secret, o metav1.UpdateOptions) (*corev1.Secret, error) {
	return b.SecretInterface.Update(b.ctx, s, o)
}

func (b boundSecrets) List(context.Context, metav1.ListOptions) (*corev1.SecretList, error) {
	s, err := b.SecretInterface.Get(b.ctx, b.only, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && s.Type != helmSecretType {
		return &corev1.SecretList{}, nil
	}
	if err != nil {
		return nil, err
	}
	return &corev1.SecretList{Items: []corev1.Secret{*s}}, nil
}

// digestText writes a SHA-256 in hex, which is a character too long for a label, in base 32.
func digestText(d string) string {
	b, err := hex.DecodeString(d)
	if err != nil || len(b) == 0 || len(b) > 32 {
		return "x" + short(d)
	}
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b))
}

// digestOf reverses digestText; empty for what it has not written.
func digestOf(text string) string {
	b, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(strings.ToUpper(text))
	if err != nil {
		return ""
	}
	return hex.EncodeToString(b)
}
