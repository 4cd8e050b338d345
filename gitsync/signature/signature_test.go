package signature

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"golang.org/x/crypto/ssh"

	"github.com/sluice-cd/sluice/gitsync"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func newSSHKey(t *testing.T, seed byte) ssh.Signer {
	t.Helper()
	signer, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize)))
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func line(principal, options string, key ssh.Signer) string {
	return principal + " " + options + string(ssh.MarshalAuthorizedKey(key.PublicKey()))
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// pushed makes a commit with a Writer and reads it back from a repository, as it is by then.
func pushed(t *testing.T, author gitsync.Identity, sign func([]byte) (string, error)) gitsync.Commit {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "git", "init", "-q", "--bare", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	remote := gitsync.Remote{URL: dir, AllowFile: true}
	w, err := gitsync.NewWriter(gitsync.WriterConfig{Remote: remote, Create: true}, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	hash, err := w.Commit(t.Context(), func(*gitsync.Snapshot) (*gitsync.Change, error) {
		return &gitsync.Change{Empty: true, Message: "a word\n\nwith a body", Author: author, Sign: sign}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	repo, err := gitsync.Open(t.Context(), remote, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer repo.Close()
	if _, err := repo.Fetch(t.Context()); err != nil {
		t.Fatal(err)
	}
	commits, err := repo.Commits(t.Context(), hash, "", 1)
	if err != nil {
		t.Fatal(err)
	}
	return commits[0]
}

func TestSSH(t *testing.T) {
	ann, other := newSSHKey(t, 1), newSSHKey(t, 2)
	author := gitsync.Identity{Name: "Ann", Email: "ann@example.com"}
	c := pushed(t, author, SSH(ann))
	for name, test := range map[string]struct {
		list, want string
	}{
		"hers":            {"# people\n\n" + line("ann@example.com", "", ann), ""},
		"one of hers":     {line("ann@example.com", "", other) + line("bob@example.com,ANN@example.com", "", ann), ""},
		"for git":         {line("ann@example.com", `namespaces="file,git" `, ann), ""},
		"for files":       {line("ann@example.com", `namespaces="file" `, ann), "which is not known"},
		"another's":       {line("bob@example.com", "", ann), "which is not one of ann@example.com now"},
		"another":         {line("ann@example.com", "", other), "which is not known"},
		"no longer":       {line("ann@example.com", `valid-before="20260201" `, ann), "which is not one of ann@example.com now"},
		"not yet":         {line("ann@example.com", `valid-after="20260401120000Z" `, ann), "which is not one of ann@example.com now"},
		"for a long time": {line("ann@example.com", `valid-after="202501011200",valid-before="20270101Z" `, ann), ""},
	} {
		keys, err := Load(write(t, "signers", test.list), "")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		err = keys.Verify(c, now)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
	keys, err := Load(write(t, "signers", line("ann@example.com", "", ann)), "")
	if err != nil {
		t.Fatal(err)
	}
	forged := c
	forged.Signed = bytes.Replace(c.Signed, []byte("a word"), []byte("a wurd"), 1)
	if err := keys.Verify(forged, now); err == nil || !strings.Contains(err.Error(), "its signature is wrong") {
		t.Errorf("another message: %v", err)
	}
	if err := keys.Verify(pushed(t, author, nil), now); !errors.Is(err, ErrUnsigned) {
		t.Errorf("unsigned: %v", err)
	}
}

func TestPGP(t *testing.T) {
	ann, err := openpgp.NewEntity("Ann", "", "ann@example.com", nil)
	if err != nil {
		t.Fatal(err)
	}
	var ring bytes.Buffer
	w, err := armor.Encode(&ring, openpgp.PublicKeyType, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(ann.Serialize(w), w.Close()); err != nil {
		t.Fatal(err)
	}
	sign := func(commit []byte) (string, error) {
		var b strings.Builder
		err := openpgp.ArmoredDetachSign(&b, ann, bytes.NewReader(commit), nil)
		return b.String(), err
	}
	keys, err := Load("", write(t, "ring.asc", ring.String()))
	if err != nil {
		t.Fatal(err)
	}
	if err := keys.Verify(pushed(t, gitsync.Identity{Name: "Ann", Email: "ann@example.com"}, sign), time.Now()); err != nil {
		t.Error(err)
	}
	bobs := pushed(t, gitsync.Identity{Name: "Bob", Email: "bob@example.com"}, sign)
	if err := keys.Verify(bobs, time.Now()); err == nil || !strings.Contains(err.Error(), "which is not one of bob@example.com now") {
		t.Errorf("with Bob's name: %v", err)
	}
	if err := (&Keys{}).Verify(bobs, time.Now()); err == nil || !strings.Contains(err.Error(), "of a key that is not known") {
		t.Errorf("of nobody: %v", err)
	}
}

// The key of a file signs as its holder: with gpg where there is one, else by the library's own verification alone.
func TestPGPSigner(t *testing.T) {
	bot, err := openpgp.NewEntity("Bot", "", "bot@example.com", nil)
	if err != nil {
		t.Fatal(err)
	}
	armoured := func(kind string, serialize func(io.Writer) error) string {
		var b bytes.Buffer
		w, err := armor.Encode(&b, kind, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(serialize(w), w.Close()); err != nil {
			t.Fatal(err)
		}
		return write(t, "key.asc", b.String())
	}
	ring := armoured(openpgp.PublicKeyType, bot.Serialize)
	open := armoured(openpgp.PrivateKeyType, func(w io.Writer) error { return bot.SerializePrivate(w, nil) })
	if err := bot.EncryptPrivateKeys([]byte("secret"), nil); err != nil {
		t.Fatal(err)
	}
	locked := armoured(openpgp.PrivateKeyType, func(w io.Writer) error { return bot.SerializePrivateWithoutSigning(w, nil) })
	keys, err := Load("", ring)
	if err != nil {
		t.Fatal(err)
	}
	for file, passphrase := range map[string]string{open: "", locked: "secret"} {
		sign, err := Signer(file, passphrase)
		if err != nil {
			t.Fatal(err)
		}
		c := pushed(t, gitsync.Identity{Name: "Bot", Email: "bot@example.com"}, sign)
		if err := keys.Verify(c, time.Now()); err != nil {
			t.Error(err)
		}
		gpg(t, ring, c)
	}
	for file, want := range map[string]string{ring: "it is a public one", locked: "the passphrase does not open it", "/none": "reading the key"} {
		if _, err := Signer(file, "wrong"); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "wrong") {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// gpg verifies the signature of a commit, where it is installed.
func gpg(t *testing.T, ring string, c gitsync.Commit) {
	t.Helper()
	if _, err := exec.LookPath("gpg"); err != nil {
		t.Log("there is no gpg; verified by go-crypto alone")
		return
	}
	home := t.TempDir()
	for _, args := range [][]string{{"--import", ring}, {"--verify", write(t, "sig", c.Signature), write(t, "commit", string(c.Signed))}} {
		cmd := exec.CommandContext(t.Context(), "gpg", append([]string{"--homedir", home, "--batch"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("gpg %s: %v: %s", args[0], err, out)
		}
	}
}

func TestLoad(t *testing.T) {
	key := newSSHKey(t, 1)
	for text, want := range map[string]string{
		"\nann@example.com":                                             ":2: has no key; expected an address and a key",
		"ann@example.com ssh-ed25519 AAAA":                              ":1: is not understood; expected an address and a key",
		line("*@example.com", "cert-authority ", key):                   ":1: option cert-authority is not supported",
		line("ann@example.com", `valid-before="tomorrow" `, key):        `:1: "tomorrow" is no time; expected one such as 20260301`,
		line("ann@example.com", `valid-after="2026030112000000" `, key): "is no time",
	} {
		if _, err := Load(write(t, "signers", text), ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	if _, err := Load("", write(t, "ring", "x")); err == nil || !strings.Contains(err.Error(), "gpg --armor --export") {
		t.Errorf("no keyring: %v", err)
	}
}
