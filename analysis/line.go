package analysis

import (
	"strings"

	"github.com/sluice-cd/sluice/gitsync/redact"
)

// longestError is the number of bytes of an error that a reason keeps: reasons end up in commit messages.
const longestError = 300

// Line is a text without what looks like a credential, on one line and cut to a length that a commit message can bear.
func Line(text string) string {
	text = strings.Join(strings.Fields(strings.ToValidUTF8(redact.Text(text), "?")), " ")
	if len(text) <= longestError {
		return text
	}
	return strings.ToValidUTF8(text[:longestError], "") + "..."
}
