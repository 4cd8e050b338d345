package render

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"helm.sh/helm/v3/pkg/provenance"
	"helm.sh/helm/v3/pkg/registry"
)

func newPGPKey(t *testing.T, name string) *openpgp.Entity {
	t.Helper()
	key, err := openpgp.NewEntity(name, "", name+"@example.com", nil)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// keyringFile writes the public halves of keys into a file that is there already, or into a new one.
func keyringFile(t *testing.T, file string, armoured bool, keys ...*openpgp.Entity) string {
	t.Helper()
	if file == "" {
		file = filepath.Join(t.TempDir(), "keyring.gpg")
	}
	var text bytes.Buffer
	var out io.WriteCloser = struct {
		io.Writer
		io.Closer
	}{&text, io.NopCloser(nil)}
	if armoured {
		var err error
		if out, err = armor.Encode(&text, openpgp.PublicKeyType, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range keys {
		if err := key.Serialize(out); err != nil {
			t.Fatal(err)
		}
	}
	if armoured {
		if err := out.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(file, text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// signed is the provenance file that helm package --sign makes of an archive of this name.
func signed(t *testing.T, key *openpgp.Entity, name string, archive []byte) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, archive, 0o600); err != nil {
		t.Fatal(err)
	}
	text, err := (&provenance.Signatory{Entity: key}).ClearSign(file)
	if err != nil {
		t.Fatal(err)
	}
	return []byte(text)
}

// TestSignedCharts: of what has to be signed, nothing counts that a key of the keyring has not signed as this very archive, from an
// HTTP repository as from a registry. Once the right provenance is there, it does.
func TestSignedCharts(t *testing.T) {
	ours, foreign := newPGPKey(t, "ours"), newPGPKey(t, "foreign")
	keyring := keyringFile(t, "", false, ours)
	archive := simpleChart(t, "app", "1.0.0", "x")
	old := simpleChart(t, "app", "0.9.0", "x")
	good := signed(t, ours, "app-1.0.0.tgz", archive)
	cases := []struct {
		name       string
		provenance []byte
		want       string // empty: it counts
	}{
		{"none", nil, "there is no provenance file"},
		{"no signature", []byte("files: {app-1.0.0.tgz: sha256:" + sha256Hex(archive) + "}"), "no good signature"},
		{"of a foreign key", signed(t, foreign, "app-1.0.0.tgz", archive), "a key that is not in the keyring"},
		{"of another version", signed(t, ours, "app-0.9.0.tgz", old), "signed for something else"},
		{"of another archive", signed(t, ours, "app-1.0.0.tgz", simpleChart(t, "app", "1.0.0", "evil")), "signed for something else"},
		{"by another name", signed(t, ours, "other-1.0.0.tgz", archive), "signed for something else"},
		{"changed", bytes.Replace(good, []byte(sha256Hex(archive)), []byte(sha256Hex(old)), 1), "no good signature"},
		{"without an end", good[:len(good)-200], "no good signature"},
		{"endless", bytes.Repeat([]byte("-----BEGIN PGP SIGNED MESSAGE-----\n"), maxProvenanceBytes/30), "provenance file is larger than the limit of 1 MiB"},
		{"right", good, ""},
	}
	repo, oci := newChartRepo(t), newOCIServer(t)
	repo.publish("app", "1.0.0", archive)
	for source, publish := range map[string]func(provenance []byte) Ref{
		"http": func(provenance []byte) Ref {
			repo.mu.Lock()
			defer repo.mu.Unlock()
			delete(repo.files, "/charts/app-1.0.0.tgz.prov")
			if provenance != nil {
				repo.files["/charts/app-1.0.0.tgz.prov"] = provenance
			}
			return repo.ref("1.0.0")
		},
		"oci": func(provenance []byte) Ref {
			oci.pushSigned(t, "1.0.0", archive, registry.ChartLayerMediaType, provenance)
			return Ref{"app", "1.0.0", oci.repository()}
		},
	} {
		prefix := strings.TrimSuffix(publish(nil).Repository, "/")
		f := newTestFetcher(t, FetcherConfig{Signed: []Signed{{URL: prefix, Keyring: keyring}}})
		for _, c := range cases {
			_, err := f.Fetch(t.Context(), publish(c.provenance))
			switch {
			case c.want == "" && err != nil:
				t.Errorf("%s, %s: %v", source, c.name, err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("%s, %s: error %v, want %q", source, c.name, err, c.want)
			case c.want != "" && !strings.Contains(c.want, "limit") && !strings.Contains(err.Error(), "app-1.0.0.tgz is not signed as agent.yaml wants what comes from "+prefix):
				t.Errorf("%s, %s: the error says too little: %v", source, c.name, err)
			}
		}
		if _, err := newTestFetcher(t, FetcherConfig{}).Fetch(t.Context(), publish(nil)); err != nil {
			t.Errorf("%s: nobody has asked for a signature: %v", source, err)
		}
	}
}

// TestSignedInTheCache: what is in the cache counts by the keyring as it is now, and by what is kept of who signed it.
func TestSignedInTheCache(t *testing.T) {
	first, second := newPGPKey(t, "first"), newPGPKey(t, "second")
	keyring := keyringFile(t, "", true, first)
	archive := simpleChart(t, "app", "1.0.0", "x")
	repo, dir := newChartRepo(t), t.TempDir()
	repo.publish("app", "1.0.0", archive)
	open := newTestFetcher(t, FetcherConfig{CacheDir: dir})
	verified := func() *Fetcher {
		return newTestFetcher(t, FetcherConfig{CacheDir: dir, Signed: []Signed{{URL: repo.URL, Keyring: keyring}}})
	}
	f := verified()
	fetch := func(f *Fetcher, want string, requests ...string) {
		t.Helper()
		repo.seen()
		_, err := f.Fetch(t.Context(), repo.ref("1.0.0"))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("error %v, want %q", err, want)
		}
		if got := repo.seen(); !slices.Equal(got, requests) {
			t.Errorf("requests %q, want %q", got, requests)
		}
	}
	fetch(open, "", "/charts/index.yaml 200", "/charts/app-1.0.0.tgz 200")
	fetch(f, "there is no provenance file", "/charts/index.yaml 304", "/charts/app-1.0.0.tgz 200", "/charts/app-1.0.0.tgz.prov 404")
	repo.mu.Lock()
	repo.files["/charts/app-1.0.0.tgz.prov"] = signed(t, first, "app-1.0.0.tgz", archive)
	repo.mu.Unlock()
	fetch(f, "", "/charts/app-1.0.0.tgz 200", "/charts/app-1.0.0.tgz.prov 200")
	fetch(f, "")
	fetch(verified(), "") // another process

	keyringFile(t, keyring, false, second, first)
	fetch(f, "")
	keyringFile(t, keyring, false, second)
	for _, f := range []*Fetcher{f, verified()} {
		if _, err := f.Fetch(t.Context(), repo.ref("1.0.0")); err == nil || !strings.Contains(err.Error(), "not in the keyring") {
			t.Errorf("its key is taken off the keyring: %v", err)
		}
	}
	repo.mu.Lock()
	repo.files["/charts/app-1.0.0.tgz.prov"] = signed(t, second, "app-1.0.0.tgz", archive)
	repo.mu.Unlock()
	fetch(f, "", "/charts/app-1.0.0.tgz 200", "/charts/app-1.0.0.tgz.prov 200")

	for _, text := range []string{"", "no keys", "-----BEGIN PGP PUBLIC KEY BLOCK-----\n"} {
		if err := os.WriteFile(keyring, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		fetch(f, "expected OpenPGP public keys, as gpg --export writes them")
	}
	if err := os.Remove(keyring); err != nil {
		t.Fatal(err)
	}
	fetch(f, "reading the keyring")
	keyringFile(t, keyring, true, second)
	fetch(f, "")
	fetch(open, "")
	if left, err := os.ReadDir(filepath.Join(dir, "checks")); err != nil || len(left) > 0 {
		t.Errorf("what is left of the checks: %v, %v", left, err)
	}
}

// TestSignedAgain: a version that was published again, signed and packed anew, counts though the cache has the one before.
func TestSignedAgain(t *testing.T) {
	key, oci, dir := newPGPKey(t, "ours"), newOCIServer(t), t.TempDir()
	keyring := keyringFile(t, "", false, key)
	ref := Ref{"app", "1.0.0", oci.repository()}
	oci.push(t, "1.0.0", simpleChart(t, "app", "1.0.0", "before"), registry.ChartLayerMediaType)
	if _, err := newTestFetcher(t, FetcherConfig{CacheDir: dir}).Fetch(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	again := simpleChart(t, "app", "1.0.0", "again")
	oci.pushSigned(t, "1.0.0", again, registry.ChartLayerMediaType, signed(t, key, "app-1.0.0.tgz", again))
	f := newTestFetcher(t, FetcherConfig{CacheDir: dir, Signed: []Signed{{URL: oci.repository(), Keyring: keyring}}})
	c, err := f.Fetch(t.Context(), ref)
	if err != nil || !strings.Contains(string(c.root.Templates[0].Data), "again") {
		t.Errorf("%v", err)
	}
}

// TestWhoseSignature: the repository that git names counts, and the place of the archive too; an access below a prefix lifts nothing.
func TestWhoseSignature(t *testing.T) {
	key := newPGPKey(t, "ours")
	keyring, other := keyringFile(t, "", false, key), keyringFile(t, "", false, newPGPKey(t, "other"))
	archive := simpleChart(t, "app", "1.0.0", "x")
	repo, away := newChartRepo(t), newChartRepo(t)
	repo.files["/charts/index.yaml"] = []byte("apiVersion: v1\nentries: {app: [{version: 1.0.0, urls: ['" + away.URL + "/app-1.0.0.tgz?token=s3cret']}]}")
	away.files["/app-1.0.0.tgz"] = archive
	away.files["/app-1.0.0.tgz.prov"] = signed(t, key, "app-1.0.0.tgz", archive)
	for name, c := range map[string]struct {
		signed []Signed
		good   bool
	}{
		"the repository's":          {[]Signed{{repo.URL, keyring}}, true},
		"the repository's, another": {[]Signed{{repo.URL, other}}, false},
		"the archive's":             {[]Signed{{away.URL, keyring}}, true},
		"the archive's, another":    {[]Signed{{away.URL, other}}, false},
		"both":                      {[]Signed{{repo.URL, keyring}, {away.URL, other}}, false},
		"the longest":               {[]Signed{{repo.URL, other}, {repo.URL + "/charts", keyring}}, true},
		"the first of equals":       {[]Signed{{repo.URL, keyring}, {repo.URL, other}}, true},
		"nobody's":                  {[]Signed{{repo.URL + "/chart", other}}, true},
	} {
		dir := t.TempDir()
		for range 2 { // the second round is another process, with what is in the cache
			f := newTestFetcher(t, FetcherConfig{CacheDir: dir, Signed: c.signed, Access: []Access{{URL: repo.URL + "/charts", Username: "u"}}})
			if _, err := f.Fetch(t.Context(), repo.ref("1.0.0")); (err == nil) != c.good || err != nil && strings.Contains(err.Error(), "s3cret") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
