// Package signature tells who signed a commit: with an SSH key of a list such as ssh-keygen and git know it, or with an
// OpenPGP key of a keyring.
//
// A signature is worth what the list says of the key, so a commit counts as its author's only where the list gives the key to
// the author's address. Keys is read once and never changes; it is safe for concurrent use.
package signature

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	"github.com/sluice-cd/sluice/gitsync"
)

// ErrUnsigned is returned for a commit without a signature.
var ErrUnsigned = errors.New("its commit is not signed")

// namespace is what git signs for; see ssh-keygen(1).
const namespace = "git"

// Keys are those that are known, and whose they are.
type Keys struct {
	ssh []sshKey
	pgp openpgp.EntityList
}

// sshKey is a line of a list of allowed signers.
type sshKey struct {
	principals  []string
	key         ssh.PublicKey
	from, until time.Time
}

// Load reads a list of allowed signers, in the format of ssh-keygen(1), and a keyring of armoured OpenPGP public keys; either
// may be empty. Lines with cert-authority are refused.
func Load(allowedSigners, keyring string) (*Keys, error) {
	k := &Keys{}
	if allowedSigners != "" {
		text, err := os.ReadFile(allowedSigners)
		if err != nil {
			return nil, fmt.Errorf("reading the allowed signers: %w", err)
		}
		for i, line := range strings.Split(string(text), "\n") {
			if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			key, used, err := parseLine(line)
			if err != nil {
				return nil, fmt.Errorf("%s:%d: %w", allowedSigners, i+1, err)
			}
			if used {
				k.ssh = append(k.ssh, key)
			}
		}
	}
	if keyring != "" {
		text, err := os.ReadFile(keyring)
		if err != nil {
			return nil, fmt.Errorf("reading the keyring: %w", err)
		}
		if k.pgp, err = openpgp.ReadArmoredKeyRing(bytes.NewReader(text)); err != nil {
			return nil, fmt.Errorf("%s: %w; expected OpenPGP public keys, as gpg --armor --export writes them", keyring, err)
		}
	}
	return k, nil
}

// parseLine reads "ann@example.com,bob@example.com [options] ssh-ed25519 AAAA...". A key that is for other purposes is not used.
func parseLine(line string) (k sshKey, used bool, err error) {
	principals, rest, ok := strings.Cut(line, " ")
	if !ok {
		return k, false, errors.New("has no key; expected an address and a key, such as ann@example.com ssh-ed25519 AAAAC3Nz")
	}
	k.principals = strings.Split(strings.Trim(principals, `"`), ",")
	var options []string
	k.key, _, options, _, err = ssh.ParseAuthorizedKey([]byte(rest))
	if err != nil {
		return k, false, errors.New("is not understood; expected an address and a key, such as ann@example.com ssh-ed25519 AAAAC3Nz")
	}
	for _, o := range options {
		name, value, _ := strings.Cut(o, "=")
		value = strings.Trim(value, `"`)
		switch strings.ToLower(name) {
		case "namespaces":
			if !slices.Contains(strings.Split(value, ","), namespace) {
				return k, false, nil
			}
		case "valid-after":
			k.from, err = parseTime(value)
		case "valid-before":
			k.until, err = parseTime(value)
		default:
			err = fmt.Errorf("option %s is not supported; expected namespaces, valid-after or valid-before", name)
		}
		if err != nil {
			return k, false, err
		}
	}
	return k, true, nil
}

// parseTime reads YYYYMMDD[HHMM[SS]][Z].
func parseTime(value string) (time.Time, error) {
	zone := time.Local //nolint:gosmopolitan // as ssh-keygen reads it
	text, utc := strings.CutSuffix(value, "Z")
	if utc {
		zone = time.UTC
	}
	for _, layout := range []string{"20060102", "200601021504", "20060102150405"} {
		if len(layout) == len(text) {
			if at, err := time.ParseInLocation(layout, text, zone); err == nil {
				return at, nil
			}
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time; expected one such as 20260301 or 20260301120000Z", value)
}

// Verify reports whether the author of a commit signed it, with a key that is theirs. now is the present.
func (k *Keys) Verify(c gitsync.Commit, now time.Time) error { return k.verify(c, c.Author.Email, now) }

// VerifyCommitter reports whether the committer of a commit signed it, with a key that is theirs: for a merge that a forge makes
// this is the forge.
func (k *Keys) VerifyCommitter(c gitsync.Commit, now time.Time) error {
	return k.verify(c, c.Committer.Email, now)
}

func (k *Keys) verify(c gitsync.Commit, email string, now time.Time) error {
	switch {
	case c.Signature == "":
		return ErrUnsigned
	case strings.HasPrefix(c.Signature, "-----BEGIN SSH SIGNATURE-----"):
		return k.verifySSH(c, email, now)
	case strings.HasPrefix(c.Signature, "-----BEGIN PGP "):
		return k.verifyPGP(c, email, now)
	default:
		return errors.New("its signature is neither of SSH nor of OpenPGP")
	}
}

func (k *Keys) verifySSH(c gitsync.Commit, email string, now time.Time) error {
	sig, err := sshsig.Unarmor([]byte(c.Signature))
	if err != nil {
		return fmt.Errorf("its signature is not understood: %w", err)
	}
	if err := sshsig.Verify(bytes.NewReader(c.Signed), sig, sig.PublicKey, sig.HashAlgorithm, namespace); err != nil {
		return fmt.Errorf("its signature is wrong: %w", err)
	}
	known := false
	for _, key := range k.ssh {
		if !bytes.Equal(key.key.Marshal(), sig.PublicKey.Marshal()) {
			continue
		}
		known = true
		outdated := !key.from.IsZero() && now.Before(key.from) || !key.until.IsZero() && !now.Before(key.until)
		if !outdated && slices.ContainsFunc(key.principals, func(p string) bool { return strings.EqualFold(p, email) }) {
			return nil
		}
	}
	return notTheirs(ssh.FingerprintSHA256(sig.PublicKey), email, known)
}

func (k *Keys) verifyPGP(c gitsync.Commit, email string, now time.Time) error {
	signer, err := openpgp.CheckArmoredDetachedSignature(k.pgp, bytes.NewReader(c.Signed), strings.NewReader(c.Signature), nil)
	if err != nil {
		return fmt.Errorf("its OpenPGP signature is wrong, or of a key that is not known: %w", err)
	}
	for _, id := range signer.Identities {
		if strings.EqualFold(id.UserId.Email, email) && !id.Revoked(now) {
			return nil
		}
	}
	return notTheirs(fmt.Sprintf("%X", signer.PrimaryKey.Fingerprint), email, true)
}

func notTheirs(fingerprint, email string, known bool) error {
	if !known {
		return fmt.Errorf("it is signed with key %s, which is not known", fingerprint)
	}
	return fmt.Errorf("it is signed with key %s, which is not one of %s now", fingerprint, email)
}

// Signer makes signatures of commits with the private key in a file, which may need a passphrase: an armoured OpenPGP key, or an SSH
// key.
func Signer(file, passphrase string) (func(commit []byte) (string, error), error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the key: %w", err)
	}
	if !bytes.Contains(text, []byte("-----BEGIN PGP ")) {
		key, err := gitsync.ReadKey(file, passphrase)
		if err != nil {
			return nil, err
		}
		return SSH(key), nil
	}
	ring, err := openpgp.ReadArmoredKeyRing(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("reading the OpenPGP key: %w", err)
	}
	if len(ring) != 1 {
		return nil, fmt.Errorf("reading the OpenPGP key: there are %d in the file, expected one", len(ring))
	}
	key := ring[0]
	if key.PrivateKey == nil {
		return nil, errors.New("reading the OpenPGP key: it is a public one, expected what gpg --armor --export-secret-keys writes")
	}
	if err := key.DecryptPrivateKeys([]byte(passphrase)); err != nil {
		return nil, fmt.Errorf("reading the OpenPGP key: the passphrase does not open it: %w", err)
	}
	return PGP(key), nil
}

// PGP makes signatures of commits with an OpenPGP key, as git does with gpg.
func PGP(key *openpgp.Entity) func(commit []byte) (string, error) {
	return func(commit []byte) (string, error) {
		var b strings.Builder
		if err := openpgp.ArmoredDetachSign(&b, key, bytes.NewReader(commit), nil); err != nil {
			return "", err
		}
		return b.String() + "\n", nil
	}
}

// SSH makes signatures of commits with an SSH key, as git does with gpg.format=ssh.
func SSH(key ssh.Signer) func(commit []byte) (string, error) {
	return func(commit []byte) (string, error) {
		sig, err := sshsig.Sign(bytes.NewReader(commit), key, sshsig.HashSHA512, namespace)
		if err != nil {
			return "", err
		}
		return string(sshsig.Armor(sig)), nil
	}
}
