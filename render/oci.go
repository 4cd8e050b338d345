package render

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"helm.sh/helm/v3/pkg/registry"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// Registries may be slow to list, but not endless: 100 pages of tags, manifests of 4 MiB.
const (
	maxTagPages      = 100
	maxManifestBytes = 4 << 20
)

// ociRepository opens the repository that holds a chart.
func (f *Fetcher) ociRepository(u *url.URL, s *site) (*remote.Repository, error) {
	repo, err := remote.NewRepository(u.Host + "/" + strings.TrimPrefix(u.Path, "/")) // a URL of a host alone has no slash
	if err != nil {
		return nil, err
	}
	repo.PlainHTTP = s.PlainHTTP || Loopback(u.Hostname())
	repo.TagListMaxPages = maxTagPages
	repo.Client = &auth.Client{
		Client: s.client,
		Header: http.Header{"User-Agent": {userAgent}},
		Cache:  s.tokens,
		Credential: func(_ context.Context, host string) (auth.Credential, error) {
			switch {
			case host != u.Host, s == f.sites.anonymous:
				return auth.EmptyCredential, nil
			case s.Token != "":
				return auth.Credential{AccessToken: s.Token}, nil
			}
			return auth.Credential{Username: s.Username, Password: s.Password}, nil
		},
	}
	return repo, nil
}

// resolveOCI chooses a version among the tags of the repository.
func (f *Fetcher) resolveOCI(ctx context.Context, r Ref) (string, error) {
	if isExact(r.Version) {
		return r.Version, nil
	}
	u, s, err := f.ociChart(r)
	if err != nil {
		return "", err
	}
	repo, err := f.ociRepository(u, s)
	if err != nil {
		return "", s.redact(err)
	}
	var versions []string
	err = repo.Tags(ctx, "", func(tags []string) error {
		for _, tag := range tags {
			// A tag can't hold a plus sign; Helm writes an underscore in its place.
			versions = append(versions, strings.ReplaceAll(tag, "_", "+"))
		}
		return nil
	})
	if err != nil {
		return "", ociError(s, err)
	}
	return pickVersion(newestFirst(versions), r.Version)
}

// ociChart is the URL of a chart's repository in a registry, and what it needs.
func (f *Fetcher) ociChart(r Ref) (*url.URL, *site, error) {
	u, err := url.Parse(r.Repository)
	if err != nil {
		return nil, nil, errors.New("malformed repository URL")
	}
	u = u.JoinPath(r.Name)
	return u, f.sites.of(u, nil), nil
}

// pullOCI downloads the chart's layer under a tag, and with signed that of its provenance, where there is one.
func (f *Fetcher) pullOCI(ctx context.Context, u *url.URL, s *site, tag string, signed bool) (received, error) {
	var got received
	repo, err := f.ociRepository(u, s)
	if err != nil {
		return got, s.redact(err)
	}
	manifest, err := f.ociManifest(ctx, repo, tag)
	if err != nil {
		return got, ociError(s, err)
	}
	chart := layerOf(manifest, registry.ChartLayerMediaType, registry.LegacyChartLayerMediaType)
	if chart == nil {
		return got, fmt.Errorf("%s is no Helm chart: it has no layer of type %s", quote(tag), registry.ChartLayerMediaType)
	}
	if got.archive, err = pullLayer(ctx, repo, s, *chart, "chart archive", f.limits.Archive); err != nil || !signed {
		return got, err
	}
	if provenance := layerOf(manifest, registry.ProvLayerMediaType); provenance != nil {
		got.provenance, err = pullLayer(ctx, repo, s, *provenance, "provenance file", maxProvenanceBytes)
	}
	return got, err
}

// layerOf is a manifest's first layer of one of these types; nil: it has none.
func layerOf(manifest *ocispec.Manifest, mediaTypes ...string) *ocispec.Descriptor {
	at := slices.IndexFunc(manifest.Layers, func(d ocispec.Descriptor) bool { return slices.Contains(mediaTypes, d.MediaType) })
	if at < 0 {
		return nil
	}
	return &manifest.Layers[at]
}

// pullLayer downloads a layer. Its digest is verified while it is read.
func pullLayer(ctx context.Context, repo *remote.Repository, s *site, layer ocispec.Descriptor, what string, limit int64) ([]byte, error) {
	if layer.Size > limit {
		return nil, &LimitError{What: what, Limit: limit}
	}
	body, err := repo.Fetch(ctx, layer)
	if err != nil {
		return nil, ociError(s, err)
	}
	defer body.Close()
	data, err := content.ReadAll(body, layer)
	if err != nil {
		return nil, ociError(s, err)
	}
	return data, nil
}

func (f *Fetcher) ociManifest(ctx context.Context, repo *remote.Repository, tag string) (*ocispec.Manifest, error) {
	// Helm writes an underscore for the plus sign that a tag can't hold.
	desc, body, err := repo.FetchReference(ctx, strings.ReplaceAll(tag, "+", "_"))
	if err != nil {
		return nil, err
	}
	defer body.Close()
	if desc.Size > maxManifestBytes {
		return nil, &LimitError{What: "manifest", Limit: maxManifestBytes}
	}
	data, err := content.ReadAll(io.LimitReader(body, maxManifestBytes), desc)
	if err != nil {
		return nil, err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("reading the manifest: %w", err)
	}
	return &m, nil
}

func ociError(s *site, err error) error {
	if errors.Is(err, errdef.ErrNotFound) {
		return ErrNotFound
	}
	return s.redact(err)
}

// splitTag cuts the tag off an oci:// URL, such as an index may hold.
func splitTag(u *url.URL) (*url.URL, string) {
	slash, colon := strings.LastIndex(u.Path, "/"), strings.LastIndex(u.Path, ":")
	if colon <= slash {
		return u, ""
	}
	cut := *u
	cut.Path = u.Path[:colon]
	return &cut, u.Path[colon+1:]
}
