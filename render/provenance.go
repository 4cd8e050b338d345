package render

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/ProtonMail/go-crypto/openpgp"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"helm.sh/helm/v3/pkg/provenance"
)

// maxProvenanceBytes of a provenance file, which holds a Chart.yaml, a digest and a signature.
const maxProvenanceBytes = 1 << 20

// Signed says that whatever comes from below a URL must be signed, in Helm's way: by a provenance file beside the archive, or by
// the provenance layer of an OCI artifact.
type Signed struct {
	// URL is the prefix that it holds for, as that of an [Access]. The longest prefix that fits wins.
	URL string
	// Keyring is a file of OpenPGP public keys, armoured or not. It is read for each chart that is asked for.
	Keyring string
}

// ReadKeyring reads a file of OpenPGP public keys, as gpg --export writes it, with --armor or without.
func ReadKeyring(file string) (openpgp.EntityList, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the keyring: %w", err)
	}
	return parseKeyring(file, text)
}

func parseKeyring(file string, text []byte) (openpgp.EntityList, error) {
	read := openpgp.ReadKeyRing
	if bytes.Contains(text, []byte("-----BEGIN PGP ")) {
		read = openpgp.ReadArmoredKeyRing
	}
	keys, err := read(bytes.NewReader(text))
	if err == nil && len(keys) == 0 {
		err = errors.New("it has no key")
	}
	if err != nil {
		return nil, fmt.Errorf("reading the keyring %s: %w; expected OpenPGP public keys, as gpg --export writes them", file, err)
	}
	return keys, nil
}

// keyring is a Signed with what was found signed by a key of it.
type keyring struct {
	prefix *site
	file   string

	mu     sync.Mutex
	text   string // of the file, as it was read last
	keys   openpgp.EntityList
	signed map[string]bool // digests of archives that one of keys has signed
}

func newKeyrings(all []Signed) ([]*keyring, error) {
	var out []*keyring
	for _, s := range all {
		prefix, err := newSite(Access{URL: s.URL})
		if err != nil {
			return nil, err
		}
		out = append(out, &keyring{prefix: prefix, file: s.Keyring})
	}
	return out, nil
}

// keyringsOf are those by whose keys what has to do with all of these URLs must be signed, their files read anew; none: nobody has to
// sign it. An empty URL is none.
func (f *Fetcher) keyringsOf(urls ...string) (out []*keyring, err error) {
	for _, text := range urls {
		u, err := url.Parse(text)
		if err != nil {
			return nil, errors.New("malformed repository URL")
		}
		if u.Scheme == "oci" {
			u, _ = splitTag(u)
		}
		k := f.keyringFor(u)
		if k == nil || slices.Contains(out, k) {
			continue
		}
		if err := k.refresh(); err != nil {
			return nil, err
		}
		out = append(out, k)
	}
	return out, nil
}

// keyringFor is the keyring whose prefix fits best, the first of equals. What has no keyring, such as an access below it, lifts none.
func (f *Fetcher) keyringFor(u *url.URL) (best *keyring) {
	for _, k := range f.keyrings {
		if k.prefix.fits(u) && (best == nil || len(k.prefix.url.Path) > len(best.prefix.url.Path)) {
			best = k
		}
	}
	return best
}

// refresh reads the file anew. Where it has changed, nothing counts as signed by its keys until it was looked at again.
func (k *keyring) refresh() error {
	text, err := os.ReadFile(k.file)
	if err != nil {
		return fmt.Errorf("reading the keyring: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.keys != nil && string(text) == k.text {
		return nil
	}
	keys, err := parseKeyring(k.file, text)
	if err != nil {
		return err
	}
	k.text, k.keys, k.signed = string(text), keys, map[string]bool{}
	return nil
}

func (k *keyring) knows(digest string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.signed[digest]
}

// received is a chart's archive, and what speaks for it.
type received struct {
	archive []byte
	// provenance is nil where there is none, or where nobody has to have signed the chart.
	provenance []byte
}

// unsignedError says why a chart does not count as signed. It helps to publish another provenance file, or to list another key.
type unsignedError struct{ archive, prefix, why string }

func (e *unsignedError) Error() string {
	return fmt.Sprintf("%s is not signed as agent.yaml wants what comes from %s: %s; expected one that a key of its verify.keyring has signed:"+
		" publish what helm package --sign makes, or put the signer's key into the keyring", e.archive, e.prefix, e.why)
}

// check reports whether a provenance file is of this archive of a chart, and signed by a key of the keyring. Helm's code wants files.
func (k *keyring) check(c *Chart, r received, tempDir string) (err error) {
	unsigned := &unsignedError{archive: archiveName(c), prefix: k.prefix.URL}
	if r.provenance == nil {
		unsigned.why = "there is no provenance file"
		return unsigned
	}
	dir, err := os.MkdirTemp(tempDir, tempPrefix+"*")
	if err != nil {
		return fmt.Errorf("checking the chart's signature: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	archive, signature := filepath.Join(dir, archiveName(c)), filepath.Join(dir, "provenance")
	if err := errors.Join(os.WriteFile(archive, r.archive, 0o600), os.WriteFile(signature, r.provenance, 0o600)); err != nil {
		return fmt.Errorf("checking the chart's signature: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	signatory := provenance.Signatory{KeyRing: k.keys}
	found, err := signatory.Verify(archive, signature)
	switch {
	case err == nil:
		k.signed[sha256Hex(r.archive)] = true
		return nil
	case errors.Is(err, pgperrors.ErrUnknownIssuer):
		unsigned.why = "its provenance is signed by a key that is not in the keyring"
	case found.SignedBy == nil:
		unsigned.why = "its provenance has no good signature: " + err.Error()
	default:
		unsigned.why = "its provenance was signed for something else: " + err.Error()
	}
	return unsigned
}

// archiveName is what Helm calls the archive of a chart, and what a provenance file therefore speaks of.
func archiveName(c *Chart) string { return c.Name() + "-" + c.Version() + ".tgz" }

// signedBy reports whether an archive that is in the cache is signed as these keyrings want, by what is kept of its provenance.
func (f *Fetcher) signedBy(keyrings []*keyring, c *Chart, digest string) bool {
	for _, k := range keyrings {
		if k.knows(digest) {
			continue
		}
		kept := received{f.disk.archive(digest, f.limits.Archive), f.disk.provenance(digest)}
		if kept.archive == nil || k.check(c, kept, f.disk.checks()) != nil {
			return false
		}
	}
	return true
}
