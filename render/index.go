package render

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.yaml.in/yaml/v3"
)

// index is what Sluice keeps of a repository's index.yaml.
type index struct {
	// ETag and LastModified of the answer, for asking again.
	ETag         string `json:"etag,omitempty"`
	LastModified string `json:"lastModified,omitempty"`
	// Checked is when the repository last confirmed it; it is not kept on disk, so a new process asks once.
	Checked time.Time               `json:"-"`
	Charts  map[string][]indexEntry `json:"charts"`
}

// indexEntry is one version of a chart; entries are sorted newest first.
type indexEntry struct {
	Version string `json:"version"`
	// URL is absolute or relative to the repository.
	URL string `json:"url"`
	// Digest is a SHA-256 in hex; empty when the index has none.
	Digest string `json:"digest,omitempty"`
}

// maxIndexFields of an index.yaml; the largest public ones have a quarter of it. Each takes some 200 bytes while it is
// read.
const maxIndexFields = 2_000_000

var errNoYAML = errors.New("it does not read as one")

// parseIndex reads an index.yaml. Entries that are of no use (no version, no URL) are left out, as Helm does.
func parseIndex(data []byte) (i *index, err error) {
	defer func() {
		if r := recover(); r != nil {
			i, err = nil, errNoYAML
		}
	}()
	// Only these fields are kept in memory; a public index can be tens of megabytes of descriptions.
	var raw struct {
		APIVersion string `json:"apiVersion" yaml:"apiVersion"`
		Entries    map[string][]*struct {
			Version string   `json:"version" yaml:"version"`
			URLs    []string `json:"urls" yaml:"urls"`
			Digest  string   `json:"digest" yaml:"digest"`
		} `json:"entries" yaml:"entries"`
	}
	if trimmed := bytes.TrimSpace(data); len(trimmed) > 0 && trimmed[0] == '{' {
		err = json.Unmarshal(data, &raw)
	} else if n := countFields(data); n > maxIndexFields {
		return nil, &LimitError{What: "number of lines and fields", Limit: maxIndexFields, Count: true}
	} else {
		err = yaml.Unmarshal(data, &raw)
	}
	switch {
	case err != nil:
		return nil, errNoYAML // the library's words repeat what it read
	case raw.APIVersion == "":
		return nil, errors.New("it has no apiVersion")
	}
	i = &index{Charts: make(map[string][]indexEntry, len(raw.Entries))}
	for name, list := range raw.Entries {
		byVersion := map[string]indexEntry{}
		var versions []string
		for _, e := range list {
			if e == nil || len(e.URLs) == 0 {
				continue
			}
			if _, ok := byVersion[e.Version]; ok {
				continue
			}
			byVersion[e.Version] = indexEntry{Version: e.Version, URL: e.URLs[0], Digest: e.Digest}
			versions = append(versions, e.Version)
		}
		for _, v := range newestFirst(versions) {
			i.Charts[name] = append(i.Charts[name], byVersion[v])
		}
	}
	return i, nil
}

// find chooses a version of a chart.
func (i *index) find(name, version string) (indexEntry, error) {
	entries := i.Charts[name]
	if len(entries) == 0 {
		return indexEntry{}, fmt.Errorf("the repository has no chart of that name: %w", ErrNotFound)
	}
	versions := make([]string, len(entries))
	for n, e := range entries {
		versions[n] = e.Version
	}
	chosen, err := pickVersion(versions, version)
	if err != nil {
		return indexEntry{}, err
	}
	for _, e := range entries {
		if e.Version == chosen {
			return e, nil
		}
	}
	return indexEntry{}, ErrNotFound
}
