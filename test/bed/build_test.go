package bed

import (
	"path/filepath"
	"slices"
	"testing"
)

// Who has etcd and kube-apiserver compiles a program without them, which is another one in the cache.
func TestAssetsAreNotCompiled(t *testing.T) {
	root, err := FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	whole := builder{sources: filepath.Join(root, "test", "bed", "servers")}
	without := whole
	without.assets = "/usr/local/kubebuilder/bin"
	if slices.Contains(whole.args(""), "-tags=external_apiserver") || !slices.Contains(without.args(""), "-tags=external_apiserver") {
		t.Errorf("flags are %v, and with assets %v", whole.args(""), without.args(""))
	}
	keys := map[string]bool{}
	for _, b := range []builder{whole, without} {
		key, err := b.key()
		if err != nil {
			t.Fatal(err)
		}
		keys[key] = true
	}
	if len(keys) != 2 {
		t.Errorf("both are kept as %v", keys)
	}
}
