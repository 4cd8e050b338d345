package bed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

var crdResource = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// gatewayAPIVersion is pinned here because go.mod need not name the module;
// Istio's definitions are of the version of its client in go.mod.
const gatewayAPIVersion = "v1.6.3"

// installCRDs creates the custom resources of Istio and of the Gateway API, from
// the modules that Sluice is compiled with, and waits until they are served.
func installCRDs(ctx context.Context, root string, config *rest.Config) error {
	crds, err := readCRDs(ctx, root)
	if err != nil {
		return fmt.Errorf("reading custom resource definitions: %w", err)
	}
	config = rest.CopyConfig(config)
	config.QPS = -1
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	names := client.Resource(crdResource)
	for _, crd := range crds {
		if _, err := names.Create(ctx, crd, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("creating %s: %w", crd.GetName(), err)
		}
	}
	for _, crd := range crds {
		if err := awaitEstablished(ctx, names, crd.GetName()); err != nil {
			return fmt.Errorf("waiting for %s: %w", crd.GetName(), err)
		}
	}
	return nil
}

// readCRDs finds the definitions in Go's module cache.
func readCRDs(ctx context.Context, root string) ([]*unstructured.Unstructured, error) {
	dirs, err := moduleDirs(ctx, root, "istio.io/api", "sigs.k8s.io/gateway-api@"+gatewayAPIVersion)
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(dirs[1], "config", "crd", "standard", "*.yaml"))
	if err != nil {
		return nil, err
	}
	files = append(files, filepath.Join(dirs[0], "kubernetes", "customresourcedefinitions.gen.yaml"))
	var crds []*unstructured.Unstructured
	for _, file := range files {
		found, err := readCRDFile(file)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", file, err)
		}
		crds = append(crds, found...)
	}
	return crds, nil
}

func readCRDFile(path string) ([]*unstructured.Unstructured, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	var crds []*unstructured.Unstructured
	documents := yaml.NewYAMLOrJSONDecoder(file, 4096)
	for {
		object := &unstructured.Unstructured{}
		if err := documents.Decode(&object.Object); errors.Is(err, io.EOF) {
			return crds, nil
		} else if err != nil {
			return nil, err
		}
		if object.GetKind() == "CustomResourceDefinition" {
			crds = append(crds, object)
		}
	}
}

// moduleDirs returns where the modules' files are, downloading them if needed.
func moduleDirs(ctx context.Context, root string, modules ...string) ([]string, error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"mod", "download", "-json"}, modules...)...)
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("running %v: %w", cmd.Args, err)
	}
	byPath := map[string]string{}
	for decoder := json.NewDecoder(bytes.NewReader(out)); decoder.More(); {
		var module struct{ Path, Dir string }
		if err := decoder.Decode(&module); err != nil {
			return nil, err
		}
		byPath[module.Path] = module.Dir
	}
	dirs := make([]string, 0, len(modules))
	for _, m := range modules {
		path, _, _ := strings.Cut(m, "@")
		if byPath[path] == "" {
			return nil, fmt.Errorf("go.mod of %s does not name %s", root, path)
		}
		dirs = append(dirs, byPath[path])
	}
	return dirs, nil
}

// awaitEstablished watches a definition until the API server serves it.
func awaitEstablished(ctx context.Context, crds dynamic.ResourceInterface, name string) error {
	w, err := crds.Watch(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String()})
	if err != nil {
		return err
	}
	defer w.Stop()
	for {
		select {
		case event, ok := <-w.ResultChan():
			if !ok || event.Type == watch.Error {
				return errors.New("the watch ended")
			}
			if crd, ok := event.Object.(*unstructured.Unstructured); ok && established(crd) {
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func established(crd *unstructured.Unstructured) bool {
	conditions, _, _ := unstructured.NestedSlice(crd.Object, "status", "conditions")
	for _, c := range conditions {
		if c, ok := c.(map[string]any); ok && c["type"] == "Established" && c["status"] == "True" {
			return true
		}
	}
	return false
}
