package gitsync

import (
	"regexp"
	"strings"
	"unicode"
)

const redacted = "xxxxx"

// secretParameter matches the value of URL query parameters that carry secrets.
var secretParameter = regexp.MustCompile(`(?i)([?&](?:access_token|private_token|auth|token|password|passwd|secret|key)=)[^&\s"'#]*`)

// Redact removes user names and passwords from the URLs in a text, and the values of query parameters that
// usually carry secrets.
func Redact(s string) string {
	if !strings.Contains(s, "://") {
		return s
	}
	var b strings.Builder
	for {
		i := strings.Index(s, "://")
		if i < 0 {
			break
		}
		b.WriteString(s[:i+3])
		s = s[i+3:]
		n := userInfo(s)
		if n > 0 && s[:n] != "git" { // the user of every forge's SSH URLs is no secret
			b.WriteString(redacted)
			s = s[n:]
			n = 0
		}
		b.WriteString(s[:n])
		s = s[n:]
	}
	b.WriteString(s)
	return secretParameter.ReplaceAllString(b.String(), "${1}"+redacted)
}

// userInfo is the length of the user information at the start of a URL's authority; 0 when there is none.
func userInfo(s string) int {
	word := s
	if i := strings.IndexAny(s, " \t\r\n\"'`<>"); i >= 0 {
		word = s[:i]
	}
	authority := word
	if i := strings.IndexAny(word, "/?#"); i >= 0 {
		authority = word[:i]
	}
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		return at
	}
	// A password with a slash in it is no valid URL, but people write it all the same, and it ends up in the
	// message that says so. host:port/path@v1 is left alone.
	_, port, ok := strings.Cut(authority, ":")
	if at := strings.LastIndexByte(word, '@'); ok && at >= 0 && (port == "" || strings.Trim(port, "0123456789") != "") {
		return at
	}
	return 0
}

// maxMessage bounds text that a server sent, in bytes.
const maxMessage = 2 << 10

// clean makes text of a server fit for one message: without the secrets in use, without control characters that
// would forge log lines or drive a terminal, and not endless.
func clean(s string, secrets []string) string {
	for _, secret := range secrets {
		// Redacting a very short word would mangle the message and tell the secret by doing so.
		if len(secret) >= 4 {
			s = strings.ReplaceAll(s, secret, redacted)
		}
	}
	s = Redact(s)
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return r
		case unicode.IsControl(r):
			return -1
		}
		return r
	}, s)
	if len(s) > maxMessage {
		s = strings.ToValidUTF8(s[:maxMessage], "") + " ..."
	}
	return strings.TrimSpace(s)
}

// cleanError is an error whose text is fit for people; errors.Is and As still see what is behind it.
type cleanError struct {
	text string
	err  error
}

func (e *cleanError) Error() string { return e.text }
func (e *cleanError) Unwrap() error { return e.err }
