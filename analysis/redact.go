package analysis

import (
	"regexp"
	"strings"
)

// longestError is the number of bytes of an error that a reason keeps: reasons end up in commit messages.
const longestError = 300

var credentials = []struct {
	pattern *regexp.Regexp
	with    string
}{
	// The user part of a URL, also where a password holds a slash or an at sign.
	{regexp.MustCompile(`(://)[^\s"'<>]*@`), "${1}***@"},
	{regexp.MustCompile(`(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{12,}`), "${1} ***"},
	{regexp.MustCompile(`(?i)\b(authorization|x-api-key|private-token)(["']?\s*[:=]\s*["']?(?:(?:bearer|basic)\s+)?)[^\s"',;]+`), "${1}${2}***"},
	// Key and value as in a query, in JSON, and in YAML without a space: prose says "reading the token: no such file".
	{regexp.MustCompile(`(?i)([a-z_-]*(?:password|passwd|token|secret|api_?key)(?:\s*=\s*["']?|["']\s*:\s*["']?|:["']?))[^\s"'&,;]+`), "${1}***"},
}

// Redact takes out of a text what looks like a credential, puts it on one line and cuts it to a length that a
// commit message can bear. It is the second fence: whoever makes the text keeps credentials out in the first place.
func Redact(text string) string {
	for _, c := range credentials {
		text = c.pattern.ReplaceAllString(text, c.with)
	}
	text = strings.Join(strings.Fields(strings.ToValidUTF8(text, "?")), " ")
	if len(text) <= longestError {
		return text
	}
	return strings.ToValidUTF8(text[:longestError], "") + "..."
}
