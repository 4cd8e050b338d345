package audit

import (
	"strings"
	"unicode"

	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// longestText is the number of bytes of a reason or a fault that a commit message and a record keep.
const longestText = 1000

// clean puts a text on one line of printable characters and cuts it to a length.
func clean(text string, longest int) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, " "))
	text = strings.Join(strings.Fields(text), " ")
	if len(text) <= longest {
		return text
	}
	return strings.TrimSpace(strings.ToValidUTF8(text[:longest-len("...")], "")) + "..."
}

// onOneLine is clean of a fault, of which several come on lines of their own: a semicolon is where one ends that does not lead over to
// the next.
func onOneLine(text string) string {
	return clean(apart(text), longestText)
}

// apart joins the lines of a text by semicolons.
func apart(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if s := b.String(); s != "" {
			if !strings.ContainsAny(s[len(s)-1:], ":;,.({[") {
				b.WriteByte(';')
			}
			b.WriteByte(' ')
		}
		b.WriteString(line)
	}
	return b.String()
}

// short is the beginning of a hash, without the name of its algorithm.
func short(hash string) string {
	if _, after, ok := strings.Cut(hash, ":"); ok {
		hash = after
	}
	if len(hash) > 10 {
		hash = hash[:10]
	}
	return clean(hash, 10)
}

// label names a release: its version, and its digest where the version does not tell it from the other release.
func label(r, other rollout.Release) string {
	version := clean(r.Name(), 80)
	switch {
	case r.IsZero() && version == "":
		return "nothing"
	case version == "":
		return short(r.Digest)
	case r.Name() == other.Name() && r.Digest != other.Digest:
		return version + " [" + short(r.Digest) + "]"
	default:
		return version
	}
}
