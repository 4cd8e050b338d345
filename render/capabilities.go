package render

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/chartutil"
)

// capabilities are a cluster's, with what rendering asks of them.
type capabilities struct {
	helm   *chartutil.Capabilities
	digest string
	// served holds group/version/kind; nil when the capabilities do not name kinds.
	served map[string]bool
}

// serves reports whether the cluster serves a kind in a version; known is false when it did not say.
func (c *capabilities) serves(apiVersion, kind string) (served, known bool) {
	return c.served[apiVersion+"/"+kind], c.served != nil
}

// capabilities derives once for each set of capabilities; clusters keep theirs for a long time.
func (r *Renderer) capabilities(helm *chartutil.Capabilities) *capabilities {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c, ok := r.caps[helm]; ok {
		return c
	}
	const clusters = 16
	if len(r.caps) >= clusters {
		clear(r.caps)
	}
	c := newCapabilities(helm)
	r.caps[helm] = c
	return c
}

func newCapabilities(helm *chartutil.Capabilities) *capabilities {
	if helm == nil {
		helm = chartutil.DefaultCapabilities
	}
	c := &capabilities{helm: helm}
	h := sha256.New()
	for _, s := range []string{helm.KubeVersion.Version, helm.KubeVersion.Major, helm.KubeVersion.Minor, helm.HelmVersion.Version} {
		writeField(h, []byte(s))
	}
	for _, v := range slices.Sorted(slices.Values(helm.APIVersions)) {
		writeField(h, []byte(v))
		if namesKind(v) {
			if c.served == nil {
				c.served = map[string]bool{}
			}
			c.served[v] = true
		}
	}
	c.digest = hex.EncodeToString(h.Sum(nil))
	return c
}

// namesKind tells "apps/v1/Deployment" and "v1/Pod" from "apps/v1".
func namesKind(v string) bool {
	last := v[strings.LastIndex(v, "/")+1:]
	return strings.Contains(v, "/") && last != "" && last[0] >= 'A' && last[0] <= 'Z'
}
