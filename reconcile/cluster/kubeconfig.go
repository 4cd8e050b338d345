package cluster

import (
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// ErrPlugin is returned by LoadREST for a kubeconfig whose user is authenticated by running a program, unless
// that is allowed. Whoever can write such a file can run anything as its reader.
var ErrPlugin = errors.New("its user runs a credential plugin, which is not allowed here")

// LoadREST reads a kubeconfig. An empty path means the cluster that the process runs in, else KUBECONFIG or
// ~/.kube/config; an empty context the current one. Credential plugins are refused unless allowPlugins is true;
// the long-gone auth-provider plugins always.
func LoadREST(path, context string, allowPlugins bool) (*rest.Config, error) {
	if path == "" && context == "" {
		if rc, err := rest.InClusterConfig(); err == nil {
			return rc, nil
		}
	}
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = path
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: context})
	if path != "" {
		if _, err := clientcmd.LoadFromFile(path); runtime.IsNotRegisteredError(err) { // which the loader does not wrap
			return nil, fmt.Errorf("reading the kubeconfig: %s is none; expected a file of apiVersion: v1 and kind: Config", path)
		}
	}
	raw, err := loader.RawConfig()
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the kubeconfig: %w", err)
	case len(raw.Clusters) == 0 && path == "" && context == "":
		return nil, errNoCluster
	}
	if err := refusePlugins(raw, context, allowPlugins); err != nil {
		return nil, err
	}
	rc, err := loader.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	return rc, nil
}

// errNoCluster has no advice of client-go's, whose KUBERNETES_MASTER is of no use here.
var errNoCluster = errors.New("no cluster is known: this is none of its pods, and neither $KUBECONFIG nor ~/.kube/config names one; " +
	"expected --kubeconfig, or kubeconfig in agent.yaml")

func refusePlugins(raw api.Config, context string, allowPlugins bool) error {
	if context == "" {
		context = raw.CurrentContext
	}
	c := raw.Contexts[context]
	if c == nil {
		return nil
	}
	user := raw.AuthInfos[c.AuthInfo]
	if user == nil {
		return nil
	}
	if user.AuthProvider != nil || user.Exec != nil && !allowPlugins {
		return fmt.Errorf("reading the kubeconfig: context %s: %w", context, ErrPlugin)
	}
	return nil
}
