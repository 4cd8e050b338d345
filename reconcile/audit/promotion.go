package audit

// Promotion is a commit that has an environment run another version of an app, or proposes that.
type Promotion struct {
	// Environment that it is for, and the app.
	Environment, App string
	// From is the version that the environment asked for before; empty: none. To is the one that it is to run.
	From, To string
	// Base is the commit of the environment branch that it is made upon, which it changes in nothing else; empty: it is made upon
	// what others have put on the branch of the pull request.
	Base string
	// Upstream is the environment in which it was promoted before, where that is why it is proposed.
	Upstream string
	// Source is the program that wrote the commit.
	Source string
}

// Subject says it in one line, as Jenkins X does.
func (p Promotion) Subject() string {
	return defused("chore: promote " + clean(p.App, 80) + " to version " + clean(p.To, 120))
}

// Message is the commit's.
func (p Promotion) Message() string {
	story := ""
	if p.From != "" {
		story = clean(p.Environment, 80) + " had " + clean(p.From, 120) + " before."
	}
	if p.Upstream != "" {
		story += " It runs in " + clean(p.Upstream, 80) + "."
	}
	return message(p.Subject(), []string{clean(story, longestText)}, []trailer{
		{"Promotion", p.Environment},
		{"App", p.App},
		{"From", p.From},
		{"To", p.To},
		{"Upstream", p.Upstream},
		{"Base", p.Base},
		{"Source", p.Source},
	})
}

// ParsePromotion reads a message that Message made. It reports false for every other one.
func ParsePromotion(msg string) (Promotion, bool) {
	t := parseTrailers(msg)
	p := Promotion{
		Environment: t["Promotion"], App: t["App"], From: t["From"], To: t["To"],
		Base: t["Base"], Upstream: t["Upstream"], Source: t["Source"],
	}
	return p, p.Environment != "" && p.App != "" && p.To != ""
}
