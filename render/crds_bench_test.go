package render

import (
	"fmt"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart"
)

// bigCRDs is a chart with 60 definitions of 100 KB, such as operators bring.
func bigCRDs() *chart.Chart {
	c := &chart.Chart{Metadata: &chart.Metadata{APIVersion: "v2", Name: "operator", Version: "1.0.0"}}
	for i := range 60 {
		c.Files = append(c.Files, &chart.File{Name: fmt.Sprintf("crds/d%02d.yaml", i), Data: []byte(bigCRD(i))})
	}
	return c
}

func bigCRD(n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: d%02d.example.com
spec:
  group: example.com
  names: {kind: D%02d, plural: d%02d}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
`, n, n, n)
	for i := 0; b.Len() < 100<<10; i++ {
		fmt.Fprintf(&b, `          field%d:
            description: What field %d is for, in as many words as the comments of Go types have, so that it fills
              two lines and then a bit.
            type: object
            properties:
              name:
                type: string
              count:
                type: integer
                format: int32
                minimum: %d
`, i, i, i)
	}
	return b.String()
}

// BenchmarkLargeDefinitions renders a chart with 60 definitions of 100 KB, in this process.
func BenchmarkLargeDefinitions(b *testing.B) {
	c := bigCRDs()
	src, err := newSource(c)
	if err != nil {
		b.Fatal(err)
	}
	t := &task{Said: []byte("{}"), Chart: src, Bare: true}
	b.ReportAllocs()
	for b.Loop() {
		p, err := t.render(nil)
		if err != nil || len(p.Objects) != 60 {
			b.Fatalf("%d objects, %v", len(p.Objects), err)
		}
	}
}
