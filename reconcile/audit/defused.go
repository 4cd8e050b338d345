package audit

import "regexp"

// Forges and their CI act upon words in commit messages: they close issues, call people, and skip the checks of a commit. The
// text of charts, metrics, people and servers ends up in messages that Sluice writes, and nobody meant any of that there. Each of
// these is changed so that people read the same and no program acts upon it.
var acted = []struct {
	words *regexp.Regexp
	as    string
}{
	// Fixes https://forge/org/repo/issues/1, closes PROJ-1: what # and GH- begin is cut below.
	{regexp.MustCompile(`(?i)\b((?:clos|fix|resolv|implement)(?:e|es|ed|s|d|ing)?)\b:?[ \t]+(\S*/(?:issues|work_items|pull|merge_requests)/[0-9]|[a-z][a-z0-9_]*-[0-9])`), "$1 - $2"},
	{regexp.MustCompile(`#([\pL\pN_])`), "# $1"},
	{regexp.MustCompile(`(?i)\b(GH-)([0-9])`), "$1 $2"},
	// The @ of an e-mail address has a word before it.
	{regexp.MustCompile(`(^|[^\pL\pN_])@([\pL\pN_])`), "$1@ $2"},
	{regexp.MustCompile(`(?i)\[([^\[\]\n]{0,40}(?:skip|\bno[ _-]?ci)[^\[\]\n]{0,40})\]`), "($1)"},
	{regexp.MustCompile(`(?i)\*\*\*[ \t]*(NO_CI)[ \t]*\*\*\*`), "$1"},
	{regexp.MustCompile(`(?i)\b((?:skip|request)-checks):[ \t]*(true)`), "$1 = $2"},
	// GitLab's quick actions begin a line, as in "/tag v1".
	{regexp.MustCompile(`(?m)^(/[a-z])`), " $1"},
}

// defused is a text with whose words no forge does anything.
func defused(text string) string {
	for _, a := range acted {
		text = a.words.ReplaceAllString(text, a.as)
	}
	return text
}
