package bed

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Who has etcd and kube-apiserver compiles a program without them, which is another one in the cache.
func TestAssetsAreNotCompiled(t *testing.T) {
	root, err := FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	whole := builder{sources: filepath.Join(root, "test", "bed", "servers"), flags: serverFlags("")}
	without := whole
	without.flags = serverFlags("/usr/local/kubebuilder/bin")
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

// TestAligned: what Sluice and the servers both link is compiled once, which makes the first demo minutes shorter, as long
// as both name the same versions. One that differs deep down, such as golang.org/x/net, has all above it compiled twice.
func TestAligned(t *testing.T) {
	root, err := FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	ours := versions(t, root, "./cmd/sluice")
	for dir, program := range map[string]string{"servers": ".", "helm": "helm.sh/helm/v3/cmd/helm"} {
		for module, version := range versions(t, filepath.Join(root, "test", "bed", dir), program) {
			if other := ours[module]; other != "" && other != version {
				t.Errorf("%s is %s in go.mod and %s in test/bed/%s/go.mod: go get the newer one in both", module, other, version, dir)
			}
		}
	}
}

// versions of the modules that a program links.
func versions(t *testing.T, dir, program string) map[string]string {
	t.Helper()
	const format = "{{with .Module}}{{.Path}} {{with .Replace}}{{.Version}}{{else}}{{.Version}}{{end}}{{end}}"
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", format, program)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOWORK=off")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("listing what %s links: %v", program, err)
	}
	found := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if module, version, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			found[module] = version
		}
	}
	return found
}
