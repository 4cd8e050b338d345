package promotion

import (
	"fmt"
	"time"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/audit"
)

// Candidate is what an environment is to run of an app because it serves upstream.
type Candidate struct {
	// Version to propose; empty: there is none, and Reason says why where there was one to think of.
	Version, Reason string
	// From is when it may be proposed, where all that is missing is time; zero: at once, or nobody knows.
	From time.Time
	// Withdraw says that what was proposed before is not to be merged any more.
	Withdraw bool
}

// Choose decides what is to be proposed of an app that asks for a version now. up are the app's records in every cluster of the
// environment upstream, own those in every cluster of this one. It is pure.
//
// A version is proposed once every cluster upstream serves it, undisturbed, and has for the time to soak; never one that was
// rolled back here, that is on hold or failing upstream, or that is older than what is asked for.
func Choose(app *environments.App, up, own []audit.Record, now time.Time) Candidate {
	switch {
	case app.Upstream.Strategy == environments.PromotionNever:
		return Candidate{Reason: "its strategy is Never"}
	case app.Fault != nil:
		return Candidate{Reason: "it can't be delivered here as it is"}
	case app.Image.Tag != "" && app.Asks() == "":
		return Candidate{Reason: app.Image.Tag + ", the place of its image's tag, is not set here"}
	case len(up) == 0:
		return Candidate{Reason: "upstream does not have it"}
	}
	asked, version := app.Asks(), versionOf(app, up[0].Serves)
	if version == "" && up[0].Serves.Version != "" {
		return Candidate{Reason: "upstream does not say which image it serves: it does from its next release on, if its sluice.yaml has apps." + app.Name + ".image"}
	}
	var since time.Time
	for _, r := range up {
		if c := unsettled(r, up[0].Serves); c.Reason != "" {
			return c
		}
		if at := servesSince(r); at.After(since) {
			since = at
		}
	}
	if version == "" || version == asked {
		return Candidate{}
	}
	if environments.Older(version, asked) {
		return Candidate{Reason: fmt.Sprintf("%s, which serves upstream, is older than %s", version, asked), Withdraw: true}
	}
	for _, r := range own {
		if _, rejected := r.Rejects(version); rejected {
			return Candidate{Reason: version + " was rolled back here", Withdraw: true}
		}
	}
	if ripe := since.Add(app.Upstream.Soak); now.Before(ripe) {
		return Candidate{Reason: version + " is soaking upstream", From: ripe}
	}
	return Candidate{Version: version}
}

// versionOf is the version of a release upstream by which an app goes here.
func versionOf(app *environments.App, r audit.Release) string {
	if app.Image.Tag != "" {
		return r.Image
	}
	return r.Version
}

// same reports whether two releases are the same to those who promote.
func same(x, y audit.Release) bool { return x.Version == y.Version && x.Image == y.Image }

// unsettled says why what a cluster upstream serves is not to be followed; without a reason it is.
func unsettled(r audit.Record, serves audit.Release) Candidate {
	switch {
	case !same(r.Serves, serves):
		return Candidate{Reason: "the clusters upstream serve different versions"}
	case r.Target != (audit.Release{}):
		return Candidate{Reason: "a rollout is under way upstream"}
	case r.Degraded != "":
		return Candidate{Reason: "it is degraded upstream", Withdraw: true}
	case r.Held != "":
		return Candidate{Reason: "it is on hold upstream", Withdraw: true}
	}
	return Candidate{}
}

// servesSince is when a cluster began to serve what it does.
func servesSince(r audit.Record) time.Time {
	if same(r.Last.Release, r.Serves) && r.Last.Became() == "" && !r.Last.At.IsZero() {
		return r.Last.At
	}
	return r.Since
}
