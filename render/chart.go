package render

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
)

// Chart is a loaded chart with its subcharts. It is shared and read-only.
type Chart struct {
	root   *chart.Chart
	digest string
	size   int64
	// helpers are the templates that apps see when this is their umbrella chart.
	helpers func() *helperFiles
}

// Name of the chart.
func (c *Chart) Name() string { return c.root.Name() }

// Values are the chart's own default values. They are shared and must not be changed.
func (c *Chart) Values() map[string]any { return c.root.Values }

// Version of the chart, exact.
func (c *Chart) Version() string { return c.root.Metadata.Version }

// Digest is a SHA-256 over the chart's files and its subcharts', in hex. It does not depend on how the chart was packed.
func (c *Chart) Digest() string { return c.digest }

// Helm returns the chart as the Helm SDK knows it, which must not be changed.
func (c *Chart) Helm() *chart.Chart { return c.root }

// loadFiles makes a chart of its files. Helm's loader is kept from panicking on what it did not expect, and from reading
// what would take more memory than there is.
func loadFiles(files []*loader.BufferedFile, limits Limits) (c *chart.Chart, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("loading chart: %v", r)
		}
	}()
	fields := 0
	for _, f := range files {
		if !slices.Contains(loaded, path.Base(f.Name)) {
			continue
		}
		if fields += countFields(f.Data); fields > limits.Fields {
			return nil, fmt.Errorf("loading chart: %w", &LimitError{
				What: "number of fields up to and with " + quote(f.Name), Limit: int64(limits.Fields), Count: true,
			})
		}
	}
	c, err = loader.LoadFiles(files)
	if err != nil {
		return nil, fmt.Errorf("loading chart: %w", err)
	}
	sortDependencies(c)
	return c, nil
}

// loaded are the files of a chart, and of its subcharts, that Helm's loader decodes.
var loaded = []string{"Chart.yaml", "Chart.lock", "values.yaml", "requirements.yaml", "requirements.lock"}

// sortDependencies undoes the random order in which Helm loads subcharts.
func sortDependencies(c *chart.Chart) {
	deps := slices.Clone(c.Dependencies())
	slices.SortStableFunc(deps, func(a, b *chart.Chart) int {
		return cmp.Or(cmp.Compare(a.Name(), b.Name()), cmp.Compare(a.Metadata.Version, b.Metadata.Version))
	})
	c.SetDependencies(deps...)
	for _, d := range deps {
		sortDependencies(d)
	}
}

// newChart completes a loaded chart.
func newChart(root *chart.Chart) *Chart {
	c := &Chart{root: root}
	h := sha256.New()
	c.size = hashChart(h, root)
	c.digest = hex.EncodeToString(h.Sum(nil))
	c.helpers = sync.OnceValue(func() *helperFiles { return newHelperFiles(root) })
	return c
}

// hashChart writes a chart's files and subcharts, each with its length, and returns the number of bytes.
func hashChart(h io.Writer, c *chart.Chart) int64 {
	raw := slices.Clone(c.Raw)
	slices.SortFunc(raw, func(a, b *chart.File) int { return cmp.Compare(a.Name, b.Name) })
	var size int64
	for _, f := range raw {
		if isSubchartFile(f.Name) {
			continue
		}
		writeField(h, []byte(f.Name))
		writeField(h, f.Data)
		size += int64(len(f.Name) + len(f.Data))
	}
	for _, d := range c.Dependencies() {
		writeField(h, []byte("charts/"))
		size += hashChart(h, d)
	}
	writeField(h, nil)
	return size
}

// writeField writes a length and the bytes, so that no two lists of fields read the same.
func writeField(h io.Writer, data []byte) {
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(data)))
	// A hash never fails to be written to.
	_, _ = h.Write(n[:])
	_, _ = h.Write(data)
}

// cloneForProcessing copies what chartutil.ProcessDependencies changes: metadata, its dependencies, and the links
// between charts. Templates, files and values are shared with the original; values are copied by Helm before use.
func cloneForProcessing(c *chart.Chart) *chart.Chart {
	meta := *c.Metadata
	if c.Metadata.Dependencies != nil {
		meta.Dependencies = make([]*chart.Dependency, 0, len(c.Metadata.Dependencies))
	}
	for _, d := range c.Metadata.Dependencies {
		if d == nil {
			continue
		}
		dep := *d
		meta.Dependencies = append(meta.Dependencies, &dep)
	}
	out := &chart.Chart{
		Raw: c.Raw, Metadata: &meta, Lock: c.Lock, Templates: c.Templates, Values: c.Values, Schema: c.Schema, Files: c.Files,
	}
	for _, d := range c.Dependencies() {
		out.AddDependency(cloneForProcessing(d))
	}
	return out
}

// missingDependencies are the declared dependencies of a chart that are not there.
func missingDependencies(c *chart.Chart) []string {
	var missing []string
	for _, want := range c.Metadata.Dependencies {
		if !slices.ContainsFunc(c.Dependencies(), func(d *chart.Chart) bool { return d.Name() == want.Name }) {
			missing = append(missing, want.Name)
		}
	}
	return missing
}

// isSubchartFile reports whether a file of a chart belongs to one of its subcharts.
func isSubchartFile(name string) bool {
	return strings.HasPrefix(name, "charts/") && path.Ext(name) != ".prov"
}
