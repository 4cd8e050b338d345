// Package redact takes credentials out of texts that people read: errors of servers, logs, commit messages. It is the second
// fence: whoever makes a text keeps credentials out in the first place.
//
// It is pure, and knows the forms that credentials have in what git and HTTP servers answer: user information of URLs, query
// parameters, headers, and keys with a value in JSON or YAML. A secret in use is taken out whatever its form.
package redact

import (
	"net/url"
	"regexp"
	"strings"
	"unicode"
)

// Mark stands where a credential was.
const Mark = "xxxxx"

// shortest is the number of bytes of a secret below which it is left alone: to take a very short word out would mangle the
// text and tell the secret by doing so.
const shortest = 4

var credentials = []struct {
	pattern *regexp.Regexp
	with    string
}{
	// Query parameters, those of signed URLs among them.
	{regexp.MustCompile(`(?i)([?&](?:access_token|private_token|auth|token|password|passwd|secret|key|sig|signature|x-amz-[a-z-]+)=)[^&\s"'#]*`), "${1}" + Mark},
	{regexp.MustCompile(`(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{12,}`), "${1} " + Mark},
	{regexp.MustCompile(`(?i)\b(authorization|x-api-key|private-token)(["']?\s*[:=]\s*["']?(?:(?:bearer|basic)\s+)?)[^\s"',;]+`), "${1}${2}" + Mark},
	// Key and value as in a query, in JSON, and in YAML without a space: prose says "reading the token: no such file".
	{regexp.MustCompile(`(?i)([a-z_-]*(?:password|passwd|token|secret|api_?key)(?:\s*=\s*["']?|["']\s*:\s*["']?|:["']?))[^\s"'&,;]+`), "${1}" + Mark},
}

// Text is a text without what looks like a credential, and without the secrets.
func Text(s string, secrets ...string) string {
	for _, secret := range secrets {
		if len(secret) >= shortest {
			s = strings.ReplaceAll(s, secret, Mark)
		}
	}
	s = withoutUsers(s)
	for _, c := range credentials {
		s = c.pattern.ReplaceAllString(s, c.with)
	}
	return s
}

// MaxMessage bounds text that a server sent, in bytes.
const MaxMessage = 2 << 10

// Message makes text of a server fit for one message: without the secrets in use, without control characters that
// would forge log lines or drive a terminal, and not endless.
func Message(s string, secrets ...string) string {
	s = Text(s, secrets...)
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return r
		case unicode.IsControl(r):
			return -1
		}
		return r
	}, s)
	if len(s) > MaxMessage {
		s = strings.ToValidUTF8(s[:MaxMessage], "") + " ..."
	}
	return strings.TrimSpace(s)
}

// withoutUsers removes user names and passwords from the URLs in a text. It looks at each byte a bounded number of times: the
// text may be a hostile server's.
func withoutUsers(s string) string {
	var b strings.Builder
	w := word{text: s}
	at := 0
	for {
		i := strings.Index(s[at:], "://")
		if i < 0 {
			break
		}
		begin := at + i + len("://")
		b.WriteString(s[at:begin])
		at = begin
		end := w.userInfo(begin)
		if end > begin && s[begin:end] != "git" { // the user of every forge's SSH URLs is no secret
			b.WriteString(Mark)
			at = end
		}
	}
	b.WriteString(s[at:])
	return b.String()
}

// word is what of a text could be one URL. It is looked for anew when the one before ends.
type word struct {
	text string
	// end of the present word, and its last @; -1: there is none.
	end, at int
}

// userInfo is where the user information ends of the URL whose authority begins at a place in the text; begin itself when
// there is none.
func (w *word) userInfo(begin int) int {
	if begin >= w.end {
		w.end, w.at = len(w.text), -1
		if i := strings.IndexAny(w.text[begin:], " \t\r\n\"'`<>"); i >= 0 {
			w.end = begin + i
		}
		if i := strings.LastIndexByte(w.text[begin:w.end], '@'); i >= 0 {
			w.at = begin + i
		}
	}
	if w.at < begin {
		return begin
	}
	authority := w.text[begin:w.end]
	if i := strings.IndexAny(authority, "/?#"); i >= 0 {
		authority = authority[:i]
	}
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		return begin + at
	}
	// A password with a slash in it is no valid URL, but people write it all the same, and it ends up in the
	// message that says so. host:port/path@v1 is left alone.
	if _, port, ok := strings.Cut(authority, ":"); ok && (port == "" || strings.Trim(port, "0123456789") != "") {
		return w.at
	}
	return begin
}

// URL is a URL without its user, password, query and fragment, any of which may be a secret.
func URL(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "a malformed URL"
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}

var urlInText = regexp.MustCompile(`[a-zA-Z][a-zA-Z0-9+.-]*://[^\s"'<>]+`)

// URLs is a text in which every URL is as URL leaves it.
func URLs(text string) string { return urlInText.ReplaceAllStringFunc(text, URL) }

// Error is an error whose text is fit for people; errors.Is and As still see what is behind it.
type Error struct {
	Text string
	Err  error
}

// Error implements error.
func (e *Error) Error() string { return e.Text }

// Unwrap gives the original.
func (e *Error) Unwrap() error { return e.Err }
