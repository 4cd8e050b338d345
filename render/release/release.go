// Package release is what rendering gives, as values: the objects of one app at one commit, and what Helm's record of it
// keeps. It is apart from package render so that whoever carries releases about does not link Helm's engine.
package release

import (
	"helm.sh/helm/v3/pkg/chart"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sluice-cd/sluice/render/mask"
)

// Release is one app rendered: everything that the chart says for it, and nothing that depends on when,
// where or how often it was rendered. It is shared and must not be changed; use DeepCopy on objects.
type Release struct {
	// Name and Namespace of the Helm release.
	Name, Namespace string
	// Version is the chart's version, AppVersion what the chart calls the app's.
	Version, AppVersion string
	// ChartDigest is a SHA-256 over the chart's files.
	ChartDigest string
	// Digest identifies the release: SHA-256 over Version, Name, Namespace, CRDs and Manifest. Equal digests hold equal
	// objects, on one cluster. For a chart whose templates use random numbers, generated keys or the clock, or ask the cluster,
	// it covers Version, ChartDigest, the values, the names and the objects of others that they were told of instead, so that
	// it changes when somebody changes something.
	Digest string
	// Volatile names the template functions because of which the text may differ each time it is rendered; empty for most
	// charts. The last is lookup, where templates have asked the cluster.
	Volatile []string
	// CRDs is what helm template --include-crds prints before Manifest: the files of crds/ directories.
	CRDs string
	// Manifest is the text that helm template prints for the app, hooks and crds/ left out.
	Manifest string
	// Objects of CRDs and Manifest, CRDs first, then in Helm's install order. API versions that the cluster no longer
	// serves have been brought up to date (see Warnings). Namespaced objects always carry their namespace.
	Objects []*unstructured.Unstructured
	// Hooks are the chart's hooks, tests included; they are not part of Objects.
	Hooks []Hook
	// Values are the coalesced values of the app (chart defaults and the environment's), for the canary: section.
	Values map[string]any
	// Config is what the environment set, globals included, as helm get values shows it.
	Config map[string]any
	// Chart as loaded, for the Helm release record.
	Chart *chart.Chart
	// Shared: the chart includes named templates of other apps, so that it may have to be rendered anew when one of these changes.
	Shared bool
	// Warnings for plan and status.
	Warnings []string
	// Told are the Secrets that templates were told of, which may stand anywhere.
	Told []*unstructured.Unstructured
	// Mask takes what the environment gave, and the data of Secrets, out of whatever is told of the release; nil: nothing.
	Mask *mask.Mask
}

// Hook is a Helm hook that the chart declares.
type Hook struct {
	Name, Kind string
	// Path of its template, as in a Source comment.
	Path string
	// Events such as pre-install, post-upgrade, test.
	Events []string
	// Weight orders the hooks of one event, lowest first.
	Weight int
	// DeletePolicies such as before-hook-creation.
	DeletePolicies []string
	Manifest       string
}
