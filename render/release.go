package render

import (
	"helm.sh/helm/v3/pkg/chart"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
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
	// Digest identifies the release: SHA-256 over Version and Manifest. Equal digests hold equal objects.
	Digest string
	// Manifest is the text that helm template prints for the app, hooks left out.
	Manifest string
	// Objects of Manifest, CRDs first, then in Helm's install order. API versions that the cluster no longer
	// serves have been brought up to date (see Warnings). Namespaced objects always carry their namespace.
	Objects []*unstructured.Unstructured
	// Hooks are the chart's hooks; they are not part of Objects.
	Hooks []Hook
	// Values are the coalesced values of the app (chart defaults and the environment's), for the canary: section.
	Values map[string]any
	// Config is what the environment set, as helm get values shows it.
	Config map[string]any
	// Chart as loaded, for the Helm release record.
	Chart *chart.Chart
	// Warnings for plan and status.
	Warnings []string
}

// Hook is a Helm hook that the chart declares.
type Hook struct {
	Name, Kind string
	Events     []string
	Manifest   string
}
