package gitsync

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/sluice-cd/sluice/gitsync/address"
	"github.com/sluice-cd/sluice/gitsync/redact"
)

// Remote says where a branch is and how to get at it.
type Remote struct {
	// URL with scheme https, http or ssh, or scp-like (git@host:path). file:// and plain paths, only of
	// repositories on this machine, need AllowFile. It must not hold a password.
	URL string
	// Branch without refs/heads/; default main. A name that begins with refs/remotes/ is what a clone on this
	// machine last saw of its own remote's branch, and HEAD what one has checked out; they can be read.
	Branch string
	// Auth for reading, and for writing when WriteAuth is zero.
	Auth Auth
	// WriteAuth for pushing.
	WriteAuth Auth
	// CAFile holds further certificate authorities for https, in PEM; empty: the system's only.
	CAFile string
	// AllowFile permits file:// URLs and plain paths.
	AllowFile bool
	// AllowInsecure permits credentials over http:// to hosts other than this one.
	AllowInsecure bool
	// Timeout of one exchange with the remote; default 5 minutes.
	Timeout time.Duration
	Limits  Limits
}

// Limits protect against repositories that are, or pretend to be, too large.
type Limits struct {
	// Pack is the most bytes that one fetch may transfer; default 512 MiB.
	Pack int64
	// Objects is the most objects that one fetch may bring; default 2 million. Indexing a pack takes some 400 bytes of
	// memory for each, however small it is.
	Objects int64
	// Object is the size in bytes above which no object is taken over; default 64 MiB.
	Object int64
	// Inflated is the most bytes that all objects of one fetch may have together, unpacked; default 32 GiB. A few bytes of a
	// pack can be an object of megabytes, and indexing takes a second for every 400 MB, which nothing can interrupt.
	Inflated int64
	// File is the size in bytes above which a file is not read from a Snapshot; default 10 MiB.
	File int64
}

// Auth holds credentials. Where a value and a file are possible the file wins; files are read each time they are
// needed, so that what they hold can be rotated. The zero Auth is anonymous.
// Auth prints without its secrets.
type Auth struct {
	// Username and Password (or token) for HTTPS. Username defaults to the URL's, then to "git", which forges
	// accept beside a token.
	Username     string
	Password     string
	PasswordFile string
	// Token is sent as "Authorization: Bearer". Most forges want their tokens as Password instead.
	Token     string
	TokenFile string
	// SSHKeyFile is a private key (OpenSSH or PEM); its Passphrase when it has one.
	SSHKeyFile     string
	Passphrase     string
	PassphraseFile string
	// SSHAgent signs in with the keys of the ssh-agent at $SSH_AUTH_SOCK where there is no SSHKeyFile.
	SSHAgent bool
	// KnownHostsFile has the host keys that are trusted, as ssh writes it. Required for SSH.
	KnownHostsFile string
}

// String tells the kind of credentials, never a secret.
func (a Auth) String() string {
	switch {
	case a.SSHKeyFile != "":
		return "ssh key " + a.SSHKeyFile
	case a.SSHAgent:
		return "ssh-agent"
	case a.hasToken():
		return "bearer token"
	case a.hasPassword():
		return "password of " + a.Username
	}
	return "anonymous"
}

// GoString is String, so that %#v is safe as well.
func (a Auth) GoString() string { return a.String() }

// LogValue is String.
func (a Auth) LogValue() slog.Value { return slog.StringValue(a.String()) }

// MarshalText is String: an Auth can't be saved with its secrets by accident.
func (a Auth) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

func (a Auth) hasToken() bool    { return a.Token != "" || a.TokenFile != "" }
func (a Auth) hasPassword() bool { return a.Password != "" || a.PasswordFile != "" }
func (a Auth) hasSecret() bool   { return a.hasToken() || a.hasPassword() }

// String is the URL without user information, and the branch.
func (r Remote) String() string { return redact.Text(r.URL) + " " + r.withDefaults().Branch }

func (r Remote) withDefaults() Remote {
	if r.Branch == "" {
		r.Branch = "main"
	}
	if r.Timeout == 0 {
		r.Timeout = 5 * time.Minute
	}
	if r.Limits.Pack == 0 {
		r.Limits.Pack = 512 << 20
	}
	if r.Limits.Objects == 0 {
		r.Limits.Objects = 2_000_000
	}
	if r.Limits.Object == 0 {
		r.Limits.Object = 64 << 20
	}
	if r.Limits.Inflated == 0 {
		r.Limits.Inflated = 32 << 30
	}
	if r.Limits.File == 0 {
		r.Limits.File = 10 << 20
	}
	if r.WriteAuth == (Auth{}) {
		r.WriteAuth = r.Auth
	}
	return r
}

// Validate reports everything that is wrong with r, joined.
func (r Remote) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }

	r = r.withDefaults()
	if err := branchRef(r.Branch).Validate(); err != nil || strings.HasPrefix(r.Branch, "-") || r.Branch == headOnly && !r.AllowFile {
		fault("branch: %q is not a branch name", r.Branch)
	}
	if r.Timeout < 0 {
		fault("timeout: must not be negative")
	}
	if r.Limits.Pack < 0 || r.Limits.Objects < 0 || r.Limits.Object < 0 || r.Limits.Inflated < 0 || r.Limits.File < 0 {
		fault("limits: must not be negative")
	}
	loc, err := address.Parse(r.URL)
	if err != nil {
		return errors.Join(append(faults, fmt.Errorf("url: %w", err))...)
	}
	auths := map[string]Auth{"auth": r.Auth}
	if r.WriteAuth != r.Auth {
		auths["writeAuth"] = r.WriteAuth
	}
	for _, name := range []string{"auth", "writeAuth"} {
		if a, ok := auths[name]; ok {
			for _, err := range a.faults(loc, r.AllowInsecure) {
				fault("%s: %w", name, err)
			}
		}
	}
	if loc.Scheme == address.File && !r.AllowFile {
		fault("url: %s is a path on this machine, which is not allowed here", redact.Text(r.URL))
	}
	if r.CAFile != "" && loc.Scheme != "https" {
		fault("caFile: only for https")
	}
	return errors.Join(faults...)
}

func (a Auth) faults(loc address.Address, allowInsecure bool) []error {
	var faults []error
	switch loc.Scheme {
	case address.SSH:
		if a.SSHKeyFile == "" && !a.SSHAgent {
			faults = append(faults, errors.New("sshKeyFile is required for ssh"))
		}
		if a.KnownHostsFile == "" {
			faults = append(faults, errors.New("knownHostsFile is required for ssh: ssh-keyscan prints the line, to be compared with what the host's operator publishes"))
		}
		if a.hasSecret() {
			faults = append(faults, errors.New("a password or token is not used with ssh"))
		}
	case address.HTTP, address.HTTPS:
		if a.SSHKeyFile != "" {
			faults = append(faults, errors.New("sshKeyFile is not used with "+loc.Scheme))
		}
		if a.hasToken() && a.hasPassword() {
			faults = append(faults, errors.New("either a password or a token, not both"))
		}
		if loc.User != "" && !a.hasPassword() {
			faults = append(faults, errors.New("the url names a user, but there is no password"))
		}
		if a.hasSecret() && loc.Scheme == address.HTTP && !allowInsecure && !loc.Loopback() {
			faults = append(faults, errors.New("credentials over http:// would be readable on the way: use https, or allowInsecure"))
		}
	}
	return faults
}

// headOnly is what a repository on this machine has checked out, when that is no branch.
const headOnly = "HEAD"

func branchRef(branch string) plumbing.ReferenceName {
	if strings.HasPrefix(branch, "refs/remotes/") || branch == headOnly {
		return plumbing.ReferenceName(branch)
	}
	return plumbing.NewBranchReferenceName(branch)
}

// secret is value, or what file holds, without the newline that editors leave.
func secret(value, file string) (string, error) {
	if file == "" {
		return value, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("reading a credential: %w", err)
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}
