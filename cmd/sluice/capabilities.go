package main

import (
	"fmt"
	"runtime/debug"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/chartutil"
)

// capabilities are those of the Kubernetes that templates are rendered for without a cluster: what the flags say as for helm
// template, else the version of the client that is linked.
func capabilities(kubeVersion string, apiVersions []string) (*chartutil.Capabilities, error) {
	c := chartutil.DefaultCapabilities.Copy()
	if kubeVersion == "" {
		kubeVersion = linkedKubernetes()
	}
	version, err := chartutil.ParseKubeVersion(kubeVersion)
	if err != nil {
		return nil, usagef("--kube-version: got %q, expected a version such as 1.33", kubeVersion)
	}
	c.KubeVersion = *version
	c.APIVersions = slices.Concat(c.APIVersions, apiVersions)
	return c, nil
}

// linkedKubernetes is the version that the linked client was made for. Helm's library takes v1.20 where its build says nothing,
// and charts then render what no cluster serves any more.
func linkedKubernetes() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if minor, found := strings.CutPrefix(m.Version, "v0."); found && m.Path == "k8s.io/client-go" {
				minor, _, _ = strings.Cut(minor, ".")
				return fmt.Sprintf("v1.%s.0", minor)
			}
		}
	}
	return chartutil.DefaultCapabilities.KubeVersion.Version
}
