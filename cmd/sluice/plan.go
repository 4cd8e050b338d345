package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"
	"helm.sh/helm/v3/pkg/chart"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/sluice-cd/sluice/analysis"
	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile/allow"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/cluster"
	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/reconcile/forecast"
	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/reconcile/source"
	"github.com/sluice-cd/sluice/render"
	"github.com/sluice-cd/sluice/render/mask"
	kube "github.com/sluice-cd/sluice/render/objects"
	"github.com/sluice-cd/sluice/render/release"
)

// plan is what a commit would change, as plan prints it and --json shows it.
type plan struct {
	Environment string `json:"environment"`
	Base        string `json:"base,omitempty"`
	Commit      string `json:"commit"`
	// Status is where what serves is from; nil: nobody asked.
	Status *statusPlan `json:"status,omitempty"`
	// Waves are the clusters in the order in which they get what is planned; empty: all at once.
	Waves string    `json:"waves,omitempty"`
	Apps  []appPlan `json:"apps"`
	// Fault is why not every entry of the environment is understood; the apps that are go on.
	Fault    string   `json:"error,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	// verbose: why it is not known what serves is told.
	verbose bool
}

// appPlan is one app of a plan. Apps that do not change are left out.
type appPlan struct {
	App string `json:"app"`
	// Action: Install, Canary, Rolling, Apply, Policy, Remove or Fault; Unknown where what the base says of the app can't be
	// rendered; Nothing where the release serves already, or is rejected, and Abort where that ends a rollout.
	Action string `json:"action"`
	From   string `json:"from,omitempty"`
	To     string `json:"to,omitempty"`
	// Status is what the status branch says of the release; nil: nothing.
	Status *standing `json:"status,omitempty"`
	// Policy says what decides, and where that is written.
	Policy *shownPolicy `json:"policy,omitempty"`
	// PolicyBefore is there when the policy changes too.
	PolicyBefore *shownPolicy `json:"policyBefore,omitempty"`
	Steps        []int        `json:"steps,omitempty"`
	// Webhooks that would be asked or told, with their types.
	Webhooks []string `json:"webhooks,omitempty"`
	// Course is what would happen, if all goes well.
	Course []coursePlan `json:"course,omitempty"`
	// Objects that differ when it is over, and those that do when the canary first has traffic; Secrets with their values masked.
	Objects  []objectPlan `json:"objects,omitempty"`
	Rollout  []objectPlan `json:"rollout,omitempty"`
	Hooks    []string     `json:"hooks,omitempty"`
	Warnings []string     `json:"warnings,omitempty"`
	Fault    string       `json:"error,omitempty"`
	// Refused is what the cluster would refuse, object by object; Adopted are objects in it that would become the app's.
	Refused []string `json:"refused,omitempty"`
	Adopted []string `json:"adopted,omitempty"`
	// keys are the objects of the release.
	keys []kube.Key
}

// coursePlan is one event of a forecast.
type coursePlan struct {
	// AfterSeconds is how long after the beginning it comes at the earliest.
	AfterSeconds float64 `json:"afterSeconds"`
	Event        string  `json:"event"`
	Weight       int     `json:"weight,omitempty"`
	// Text tells it.
	Text string `json:"text"`
}

// objectPlan is one object that a plan creates, changes or deletes, or keeps where its app goes.
type objectPlan struct {
	Object string `json:"object"`
	Change string `json:"change"`
	// Why it is kept.
	Why  string `json:"why,omitempty"`
	Diff string `json:"diff,omitempty"`
}

func newPlan() *cobra.Command {
	var f inspection
	var where statusSource
	var base string
	var asJSON, code, verbose bool
	cmd := &cobra.Command{
		Use:   "plan [app...]",
		Short: "Show what a commit would change",
		Long: `Renders the environment at a commit and at its parent, and prints for each app that differs
what would happen: a first install, a canary, a rolling update, an apply without a rollout
(pods unchanged), another policy, or a removal. It shows the policy and where it is set,
the course of the rollout if all goes well, the objects that change, and those that exist
or differ while the canary has traffic. Secret values are never shown. Helm hooks are
listed; they are not run yet.

With a status branch each app is compared with what is running, and what blocks it is
shown: its release was rolled back before, is rolling out now, is suspended, held, or
waits for a gate. There is nothing to do for a release that is running already, or that
was rolled back and that no new commit asks for. With --base only the two commits are
compared.

With --kubeconfig it finds out, by dry runs that change nothing, what that cluster would
reject: objects that belong to somebody else, changes that the API server refuses, kinds
that it does not serve, rights that the kubeconfig's user lacks. The dry runs need the
rights of the agent; with --agent-config they impersonate the ServiceAccount that it sets
for the environment. Objects that would be adopted are listed, and it warns about objects
in that cluster (NetworkPolicies, PodDisruptionBudgets) that match the stable pods but not
the canary's. Exit code 3 when there are errors, or something would be rejected.`,
		Example: `  sluice plan --repo . --environment production
  sluice plan --repo . --branch promote-croc-hunter-java --base $(git merge-base main HEAD)
  sluice plan --repo https://git.example.com/production.git --environment production --json croc-hunter-java`,
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := f.view(cmd.Context())
			if err != nil {
				return err
			}
			defer v.close()
			p, err := v.plan(cmd.Context(), base, where, args)
			if err != nil {
				return err
			}
			p.verbose = verbose
			if err := p.print(cmd.OutOrStdout(), asJSON); err != nil {
				return err
			}
			switch {
			case p.faulty():
				return &codedError{code: exitFinding}
			case code && p.changes():
				return &codedError{code: exitChange}
			}
			return nil
		},
	}
	f.register(cmd)
	where.registerBranch(cmd.Flags())
	cmd.Flags().StringVar(&base, "base", "", "commit to compare with, as --commit (default: what is running, else the commit's parent)")
	cmd.Flags().BoolVar(&verbose, "verbose", false, "explain why the running releases are not known, if they are not")
	cmd.MarkFlagsMutuallyExclusive("base", "status-repo")
	cmd.MarkFlagsMutuallyExclusive("base", "status-branch")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&code, "exit-code", false, "exit with 4 when there are no errors and something would change")
	return cmd
}

// faulty reports whether something can't be delivered as git says, or the cluster would refuse it.
func (p *plan) faulty() bool {
	return p.Fault != "" || slices.ContainsFunc(p.Apps, func(a appPlan) bool { return a.Fault != "" || len(a.Refused) > 0 })
}

// changes reports whether something would happen.
func (p *plan) changes() bool {
	return slices.ContainsFunc(p.Apps, func(a appPlan) bool { return a.Action != "Nothing" })
}

// plan compares the environment at the tip with the one at base; without a base, the apps that differ from the parent with what serves.
func (v *view) plan(ctx context.Context, base string, where statusSource, names []string) (*plan, error) {
	before, err := v.base(ctx, base)
	if err != nil {
		return nil, err
	}
	var status *statusPlan
	if base == "" {
		if v.serving, status, err = v.readServing(ctx, where); err != nil {
			return nil, err
		}
	}
	p, err := v.compare(ctx, before, v.tip, names)
	if err == nil {
		p.Status = status
	}
	return p, err
}

// compare plans what comes of going from one commit to another; a nil one is an environment without apps.
func (v *planner) compare(ctx context.Context, before, after *gitsync.Snapshot, names []string) (*plan, error) {
	to, err := v.at(after)
	if err != nil {
		return nil, err
	}
	from, err := v.at(before)
	if err != nil {
		// A base that can't be read has nothing to compare with; that must not hide what the commit says.
		from = nothing
	}
	p := &plan{Environment: to.Env.Name, Commit: to.Commit, Base: from.Commit, Waves: to.Env.Waves.String(), Apps: []appPlan{}, Warnings: to.Env.Warnings}
	if err != nil {
		p.Warnings = append(p.Warnings, "the base can't be read, so everything looks new: "+err.Error())
	}
	if to.Env.Incomplete != nil {
		p.Fault = to.Env.Incomplete.Error()
	}
	if err := known(names, to.Env, from.Env); err != nil {
		return nil, err
	}
	old := byName(from.Env)
	redefined := v.redefined(ctx, from, to)
	for i := range to.Env.Apps {
		app := &to.Env.Apps[i]
		was := old[app.Name]
		delete(old, app.Name)
		alike := was != nil && unchanged(from.Env, to.Env, was, app)
		if !wanted(names, app.Name) || alike && !redefined {
			continue
		}
		a := v.app(ctx, from, to, was, app)
		if alike && (a.Action == "Nothing" || a.Action == "Error" && v.broken(ctx, from, was)) {
			continue // no news of this commit
		}
		if a.Action != "" {
			p.Apps = append(p.Apps, a)
		}
	}
	if redefined {
		v.overridden(ctx, to, p)
	}
	p.shared()
	// Where an entry can't be read nobody knows which app it meant to keep.
	for i := range from.Env.Apps {
		app := &from.Env.Apps[i]
		if old[app.Name] != nil && p.Fault == "" && wanted(names, app.Name) {
			p.Apps = append(p.Apps, v.removal(ctx, from, app))
		}
	}
	return p, nil
}

// shared makes an object that several of the planned apps render a fault of each. What apps render that do not change, validate tells:
// a plan renders what changes.
func (p *plan) shared() {
	owners := map[kube.Key][]string{}
	for _, a := range p.Apps {
		for _, key := range a.keys {
			owners[key] = append(owners[key], a.App)
		}
	}
	for i := range p.Apps {
		if fault := sharedBy(p.Apps[i].App, owners); fault != "" {
			p.Apps[i].Action, p.Apps[i].Fault = "Error", fault
		}
	}
}

// wanted reports whether an app is asked for; all are when none is named.
func wanted(names []string, app string) bool { return len(names) == 0 || slices.Contains(names, app) }

// known refuses names that are no apps of any of the environments, which are one at several commits.
func known(names []string, envs ...*environments.Environment) error {
	var all []string
	for _, env := range envs {
		for i := range env.Apps {
			all = append(all, env.Apps[i].Name)
		}
	}
	slices.Sort(all)
	return listed(names, slices.Compact(all))
}

// listed refuses names of apps that are not among those that there are.
func listed(names, all []string) error {
	for _, name := range names {
		if !slices.Contains(all, name) {
			return &codedError{exitUsage, environments.UnknownName("app", name, "environment", all)}
		}
	}
	return nil
}

// unchanged tells without rendering that nothing would happen to an app.
func unchanged(from, to *environments.Environment, was, app *environments.App) bool {
	return was.Digest == app.Digest && app.Fault == nil && was.Fault == nil &&
		was.Rollout.Equal(app.Rollout) && from.Rollout.Equal(to.Rollout)
}

// byName are an environment's apps.
func byName(env *environments.Environment) map[string]*environments.App {
	apps := make(map[string]*environments.App, len(env.Apps))
	for i := range env.Apps {
		apps[env.Apps[i].Name] = &env.Apps[i]
	}
	return apps
}

// redefined reports whether a chart of the umbrella brings other named templates than before: an app that nothing is changed of may
// include them. A version bump mostly changes none, and then only what it bumps has to be fetched and rendered.
func (v *planner) redefined(ctx context.Context, from, to source.Commit) bool {
	if to.Env.Umbrella.Name == "" {
		return false
	}
	definitions := func(src source.Commit, app *environments.App) string {
		if app == nil || app.Fault != nil {
			return ""
		}
		chart, err := v.charts.Chart(ctx, src, app)
		if err != nil {
			return "" // the fault of the app says it
		}
		return chart.Definitions()
	}
	old := byName(from.Env)
	for i := range to.Env.Apps {
		app := &to.Env.Apps[i]
		was := old[app.Name]
		delete(old, app.Name)
		if was != nil && was.Digest == app.Digest {
			continue
		}
		if definitions(from, was) != definitions(to, app) {
			return true
		}
	}
	for _, gone := range old {
		if definitions(from, gone) != "" {
			return true
		}
	}
	return false
}

// overridden warns where Helm would take another chart's named templates for one that a plan shows, or for that its own.
func (v *planner) overridden(ctx context.Context, to source.Commit, p *plan) {
	all := map[string]*chart.Chart{}
	for i := range to.Env.Apps {
		app := &to.Env.Apps[i]
		if c, err := v.charts.Chart(ctx, to, app); app.Fault == nil && err == nil && app.Chart.Path != to.Env.Umbrella.Dir {
			all[app.Name] = c.Helm()
		}
	}
	for _, o := range render.Overrides(all) {
		for i := range p.Apps {
			switch a := &p.Apps[i]; a.App {
			case o.App:
				a.Warnings = append(slices.Clone(a.Warnings), overridden(o))
			case o.Winner:
				a.Warnings = append(slices.Clone(a.Warnings), "of "+o.App+": "+overridden(o))
			}
		}
	}
}

// broken reports whether an app could not be rendered.
func (v *planner) broken(ctx context.Context, src source.Commit, app *environments.App) bool {
	_, _, err := v.charts.Release(ctx, src, app)
	return err != nil && !errors.Is(err, source.ErrSwitchedOff)
}

// base is the snapshot to compare with; nil when the commit has no parent.
func (v *view) base(ctx context.Context, base string) (*gitsync.Snapshot, error) {
	if base != "" {
		return v.commit(ctx, "base", base)
	}
	history, err := v.repo.Commits(ctx, v.tip.Commit, "", 2)
	if err != nil {
		return nil, fmt.Errorf("finding the parent of %.10s: %w; fetch more history: git fetch --deepen=1, or fetch-depth: 2 in CI", v.tip.Commit, err)
	}
	if len(history) < 2 {
		return nil, nil
	}
	return v.repo.At(history[1].Hash)
}

// app plans one app; the action is empty when nothing would happen.
func (v *planner) app(ctx context.Context, from, to source.Commit, was, app *environments.App) appPlan {
	p := appPlan{App: app.Name, To: app.Chart.Version}
	rel, policy, err := v.charts.Release(ctx, to, app)
	if errors.Is(err, source.ErrSwitchedOff) {
		return v.switchedOff(ctx, from, was, app)
	}
	if err != nil {
		p.Action, p.Fault = "Error", err.Error()
		return p
	}
	goal := released(app, rel, policy)
	goal.Plan.Suspend = false // what would come is shown all the same
	p.To, p.Policy, p.Warnings, p.Webhooks = goal.ID.Name(), (*shownPolicy)(&policy), rel.Warnings, told(policy.Asked())
	for _, o := range project.Applied(rel.Objects) {
		p.keys = append(p.keys, ownedKey(o, app.Namespace))
	}
	for _, field := range policy.Ignored {
		p.Warnings = append(p.Warnings, "the policy's "+field+" has no effect here")
	}
	for _, h := range rel.Hooks {
		p.Hooks = append(p.Hooks, rel.Mask.Text(fmt.Sprintf("%s %s (%s)", h.Kind, h.Name, strings.Join(h.Events, ", "))))
	}
	if outside := outside(app, rel); v.charts.Allow == nil && len(outside) > 0 {
		p.Warnings = append(p.Warnings, "outside its namespace, so agent.yaml must allow it: "+strings.Join(outside, ", "))
	}
	if v.charts.Allow == nil {
		if fault := foreignQuery(app, policy); fault != nil {
			p.Warnings = append(p.Warnings, fault.Error())
		}
		if hosts := hookHosts(policy); len(hosts) > 0 {
			p.Warnings = append(p.Warnings, "webhooks lead to "+strings.Join(hosts, ", ")+", which allow.webhooks of agent.yaml must include")
		}
	}
	var old *release.Release
	var before environments.Policy
	now := v.served(ctx, to, app, rel, policy)
	if now != nil {
		p.Status = &now.standing
	}
	if was != nil {
		old, before, err = v.charts.Release(ctx, from, was)
	}
	if now != nil && now.known {
		if was == nil || err != nil {
			before = now.policy // the policy of a release that serves is that of the base
		}
		old, err = now.release, nil
	}
	if was != nil {
		switch {
		case errors.Is(err, source.ErrSwitchedOff):
			was = nil
		case err != nil:
			p.Action, p.From = "Unknown", was.Chart.Version
			p.Warnings = append(p.Warnings, "the changes are not known, because the base can't be rendered: "+err.Error())
			return p
		}
	}
	if was != nil {
		if err := delivery.Moved(app.Name, was.Namespace, app.Namespace); err != nil {
			p.Action, p.Fault = "Error", err.Error()
			return p
		}
	}
	var base forecast.Release
	if now != nil && now.ends() {
		p.Action, p.From = "Abort", now.RollingOut
		return p
	}
	if now != nil && now.Rejected != nil && now.final() {
		p.Action = "Nothing"
		return p
	}
	if old != nil {
		base = released(cmp.Or(was, app), old, before)
		if now != nil && now.known && now.Serves != old.Version {
			base.ID.Image = now.Serves
		}
		p.From = base.ID.Name()
		if !reflect.DeepEqual(before, policy) {
			p.PolicyBefore = (*shownPolicy)(&before)
		}
		if old.Digest == rel.Digest && p.PolicyBefore == nil {
			if now != nil {
				p.Action = "Nothing"
			}
			return p
		}
	}
	f, err := forecast.Of(app.Name, app.Namespace, base, goal)
	if err != nil {
		p.Action, p.Fault = "Error", rel.Mask.Text(err.Error())
		return p
	}
	p.Action = actionOf(f, goal.Plan)
	secrets := mask.New(mask.Source{
		Objects: slices.Concat(f.Before, f.After), Names: []string{app.Name, app.ReleaseName, app.Namespace, rel.Version, p.From},
	})
	p.Objects = objectChanges(f.Before, f.After, secrets)
	if p.Action == "Canary" || p.Action == "Policy" {
		p.Steps = policy.Steps()
	}
	if f.Under != nil {
		p.Rollout = objectChanges(f.Before, f.Under, secrets)
	}
	for _, e := range f.Events {
		if policy.Suspend {
			break // none of it, until it ends
		}
		text := strings.TrimPrefix(audit.Subject(app.Name, e.Event), app.Name+": ")
		p.Course = append(p.Course, coursePlan{e.After.Seconds(), string(e.Type), e.Weight, text})
	}
	if p.Action == "Canary" {
		p.Warnings = append(p.Warnings, rel.Mask.Texts(v.warnings(ctx, project.Input{
			App: app.Name, Namespace: app.Namespace, Stable: old.Objects, Target: rel.Objects, Plan: goal.Plan,
			State: rollout.State{StablePlan: &base.Plan},
		}))...)
	}
	v.foresee(ctx, &p, deliveryOf(to.Env, app), base, goal, rel.Mask)
	v.supplied(ctx, &p, rel)
	return p
}

// supplied says of what only a hook would make what the cluster knows, if there is one.
func (v *planner) supplied(ctx context.Context, p *appPlan, rel *release.Release) {
	if v.cluster == nil {
		return
	}
	for _, awaited := range delivery.AwaitedBy(rel) {
		there, err := awaited.There(ctx, v.cluster)
		switch {
		case err != nil:
			p.Warnings = append(p.Warnings, "not known: "+err.Error())
		case there:
			p.Warnings = slices.DeleteFunc(slices.Clone(p.Warnings), func(w string) bool { return w == awaited.String() })
		case awaited.Sure:
			p.Refused = append(p.Refused, rel.Mask.Text(awaited.Missing().Error()))
		}
	}
}

// foresee adds what the cluster, if there is one, would say to a plan.
func (v *planner) foresee(ctx context.Context, p *appPlan, app delivery.App, from, to forecast.Release, m *mask.Mask) {
	if v.cluster == nil {
		return
	}
	all, err := project.Trial(project.Input{
		App: app.Name, Namespace: app.Namespace, Stable: from.Objects, Target: to.Objects, Plan: to.Plan,
		State: rollout.State{Stable: from.ID, Target: to.ID, StablePlan: &from.Plan},
	}, p.Action == "Canary")
	var f cluster.Foreseen
	if err == nil {
		f, err = v.cluster.Foresee(ctx, app, all)
	}
	if err != nil {
		f.Unknown = append(f.Unknown, "what the cluster would refuse: "+err.Error())
	}
	for _, what := range f.Unknown {
		p.Warnings = append(p.Warnings, "not known: "+m.Text(what))
	}
	p.Refused, p.Adopted = m.Texts(f.Refused), f.Adopted
}

// deliveryOf is an app as the agent that is new to it names it: apps that share a release name have records of their own.
func deliveryOf(env *environments.Environment, app *environments.App) delivery.App {
	out := delivery.App{Name: app.Name, Namespace: app.Namespace, ReleaseName: app.ReleaseName}
	for i := range env.Apps {
		if other := &env.Apps[i]; other.Name != app.Name && other.ReleaseName == app.ReleaseName {
			out.ReleaseName, out.SharedName = app.Name, app.ReleaseName
		}
	}
	return out
}

// outside are the objects of a release that are not in its app's namespace.
func outside(app *environments.App, rel *release.Release) (names []string) {
	rules := allow.Rules{Own: app.Namespace}
	for _, o := range project.Applied(rel.Objects) {
		var refused *allow.Error
		if errors.As(rules.Object(o, o.GetNamespace() == ""), &refused) {
			names = append(names, refused.What)
		}
	}
	return names
}

// foreignQuery is why a query of the policy would be refused by an agent that has not been told to allow it; nil: none would.
func foreignQuery(app *environments.App, policy environments.Policy) error {
	_, err := delivery.Checks(rollout.NewPlan(policy), analysis.Vars{
		Namespace: app.Namespace, Target: app.Name, Service: app.Name, Name: app.Name,
	})
	return err
}

// released is a release as a forecast takes it.
func released(app *environments.App, rel *release.Release, p environments.Policy) forecast.Release {
	r := forecast.Release{
		ID: rollout.Release{Version: rel.Version, Digest: rel.Digest}, Objects: rel.Objects, Plan: rollout.NewPlan(p),
	}
	if app.Image.Tag != "" {
		r.ID.Image = app.Asks()
	}
	return r
}

// actionOf names what a forecast comes to.
func actionOf(f forecast.Forecast, plan rollout.Plan) string {
	if len(f.Events) == 0 {
		return "Policy"
	}
	switch first := f.Events[0].Type; {
	case first == rollout.InstallStarted:
		return "Install"
	case first == rollout.Applied:
		return "Apply"
	case plan.Canary():
		return "Canary"
	default:
		return "Rolling"
	}
}

// switchedOff plans an app that its chart switches off: it goes if it was there.
func (v *planner) switchedOff(ctx context.Context, from source.Commit, was, app *environments.App) appPlan {
	p := appPlan{App: app.Name}
	if was != nil {
		if _, _, err := v.charts.Release(ctx, from, was); !errors.Is(err, source.ErrSwitchedOff) {
			return v.removal(ctx, from, was)
		}
	}
	return p
}

// removal plans that an app goes: what is deleted with it, and what stays.
func (v *planner) removal(ctx context.Context, from source.Commit, was *environments.App) appPlan {
	p := appPlan{App: was.Name, Action: "Remove", From: was.Chart.Version}
	rel, policy, err := v.charts.Release(ctx, from, was)
	var f forecast.Forecast
	if err == nil {
		goal := released(was, rel, policy)
		p.From = goal.ID.Name()
		goal.Plan.Suspend = false // it serves
		f, err = forecast.Of(was.Name, was.Namespace, forecast.Release{}, goal)
	}
	if err != nil {
		p.Warnings = []string{"the deletions are not known, because the base can't be rendered: " + err.Error()}
		return p
	}
	for _, o := range f.After {
		if why := cluster.Stays(o); why != "" {
			p.Objects = append(p.Objects, objectPlan{Object: identity(o), Change: "keep", Why: why})
		} else {
			p.Objects = append(p.Objects, objectPlan{Object: identity(o), Change: "delete"})
		}
	}
	return p
}

// warnings tell of what the canary will not have, and of what lives in the cluster, if there is one, and would treat it
// otherwise than what serves.
func (v *planner) warnings(ctx context.Context, in project.Input) []string {
	var live []*unstructured.Unstructured
	var unlisted error
	if v.cluster != nil {
		live, unlisted = delivery.Beside(ctx, v.cluster, in.Namespace)
	}
	warnings, err := project.Warnings(in, live)
	if err != nil {
		return []string{err.Error()}
	}
	if unlisted != nil {
		warnings = append(warnings, "other objects in the cluster are not known: "+unlisted.Error())
	}
	return warnings
}

// objectChanges compares objects by identity, in the order of the new release, what goes last. What a Secret holds is masked in
// the other objects as well.
func objectChanges(from, to []*unstructured.Unstructured, secrets *mask.Mask) []objectPlan {
	old := map[string]*unstructured.Unstructured{}
	for _, o := range from {
		old[identity(o)] = o
	}
	var out []objectPlan
	for _, o := range to {
		id := identity(o)
		was := old[id]
		delete(old, id)
		d := lineByLine(unified(was, o), secrets)
		switch {
		case was == nil:
			out = append(out, objectPlan{Object: id, Change: "create", Diff: d})
		case d != "":
			out = append(out, objectPlan{Object: id, Change: "change", Diff: d})
		}
	}
	for _, o := range from {
		if id := identity(o); old[id] != nil {
			out = append(out, objectPlan{Object: id, Change: "delete", Diff: lineByLine(unified(o, nil), secrets)})
		}
	}
	return out
}

func identity(o *unstructured.Unstructured) string {
	id := o.GetKind() + "/" + o.GetName()
	if g := o.GroupVersionKind().Group; g != "" {
		id = o.GetKind() + "." + g + "/" + o.GetName()
	}
	if o.GetNamespace() != "" {
		id += " in " + o.GetNamespace()
	}
	return id
}

// lineByLine masks a text of any length.
func lineByLine(text string, m *mask.Mask) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(m.Text(line))
	}
	return b.String()
}

// unified is the difference of two objects as YAML, Secrets masked; empty when they are equal.
func unified(from, to *unstructured.Unstructured) string {
	x, y := masked(from, to)
	return string(diff.Diff("before", x, "after", y))
}

// masked renders two objects. The values of Secrets are replaced, equal ones by equal text, so that a diff shows
// that one changed and nothing else.
func masked(from, to *unstructured.Unstructured) (x, y []byte) {
	mask := func(o *unstructured.Unstructured, word string, other *unstructured.Unstructured) []byte {
		if o == nil {
			return nil
		}
		if o.GetKind() == "Secret" && o.GroupVersionKind().Group == "" {
			o = maskSecret(o, word, other)
		}
		b, err := yaml.Marshal(o.Object)
		if err != nil {
			return []byte("not printable\n")
		}
		return b
	}
	return mask(from, "*** (before)", to), mask(to, "*** (after)", from)
}

func maskSecret(o *unstructured.Unstructured, word string, other *unstructured.Unstructured) *unstructured.Unstructured {
	o = o.DeepCopy()
	for _, field := range []string{"data", "stringData"} {
		values, _, err := unstructured.NestedMap(o.Object, field)
		if err != nil || values == nil {
			delete(o.Object, field)
			continue
		}
		for k, v := range values {
			values[k] = word
			if other != nil {
				if w, ok, err := unstructured.NestedFieldNoCopy(other.Object, field, k); ok && err == nil && w == v {
					values[k] = "***"
				}
			}
		}
		o.Object[field] = values
	}
	// kubectl keeps a copy of the whole object in an annotation.
	unstructured.RemoveNestedField(o.Object, "metadata", "annotations", "kubectl.kubernetes.io/last-applied-configuration")
	return o
}

func (p *plan) print(w io.Writer, asJSON bool) error {
	if asJSON {
		return printJSON(w, p)
	}
	var err error
	line := func(format string, args ...any) { err = errors.Join(err, tell(w, format, args...)) }
	line("environment %s: %s -> %s", cmp.Or(p.Environment, "(name not set; use --environment)"), orNone(p.Base), orNone(p.Commit))
	if s := p.Status; s != nil {
		s.print(line, p.verbose)
	}
	if p.Waves != "" {
		line("clusters: %s", p.Waves)
	}
	if p.Fault != "" {
		line("error: %s", p.Fault)
	}
	for _, warning := range p.Warnings {
		line("warning: %s", warning)
	}
	for _, a := range p.Apps {
		a.print(line)
	}
	if len(p.Apps) == 0 {
		line("no app changes")
	}
	return err
}

func (a *appPlan) print(line func(string, ...any)) {
	line("")
	line("%s", a.headline())
	if a.Status != nil {
		for _, text := range a.Status.lines() {
			line("  %s", text)
		}
	}
	if a.Action == "Remove" {
		for _, warning := range a.Warnings {
			line("  warning: %s", warning)
		}
		printObjects(line, "  ", a.Objects)
	}
	if a.Fault != "" || slices.Contains([]string{"Remove", "Nothing", "Abort"}, a.Action) {
		return
	}
	line("  policy: %s", policyLine((*environments.Policy)(a.Policy), a.Steps))
	if a.PolicyBefore != nil {
		before := (*environments.Policy)(a.PolicyBefore)
		line("    before: %s", policyLine(before, before.Steps()))
	}
	for _, h := range a.Hooks {
		line("  hook, not run: %s", h)
	}
	for _, what := range a.Refused {
		line("  refused: %s", what)
	}
	for _, what := range a.Adopted {
		line("  adopted: %s", what)
	}
	for _, warning := range a.Warnings {
		line("  warning: %s", warning)
	}
	printObjects(line, "  ", a.Objects)
	if len(a.Course) > 0 && (a.Action == "Canary" || a.Action == "Rolling") {
		from := ""
		if a.Status != nil && a.Status.Asked {
			from = ", from its beginning"
		}
		line("  if all goes well%s:", from)
		for _, e := range a.Course {
			line("    %6s  %s", time.Duration(e.AfterSeconds*float64(time.Second)), e.Text)
		}
	}
	if len(a.Rollout) > 0 {
		line("  when the canary first has traffic:")
		printObjects(line, "    ", a.Rollout)
	}
}

// headline says in a line what would happen to the app.
func (a *appPlan) headline() string {
	switch {
	case a.Fault != "":
		return fmt.Sprintf("%s: error: %s", a.App, a.Fault)
	case a.Action == "Remove":
		return fmt.Sprintf("%s: remove %s", a.App, a.From)
	case a.Action == "Nothing" && a.Status.Already:
		return fmt.Sprintf("%s: %s is running already: nothing to do", a.App, a.Status.Serves)
	case a.Action == "Nothing":
		return fmt.Sprintf("%s: %s is rejected: nothing to do", a.App, a.Status.Rejected.Version)
	case a.Action == "Abort":
		return fmt.Sprintf("%s: abort %s at %s, %s keeps serving", a.App, a.Status.RollingOut, rollout.Percent(a.Status.Weight), a.Status.Serves)
	case a.Action == "Unknown":
		return fmt.Sprintf("%s: %s -> %s, changes not known", a.App, cmp.Or(a.From, "a version that can't be read"), a.To)
	case a.From == "" || a.From == a.To:
		return fmt.Sprintf("%s: %s %s", a.App, strings.ToLower(a.Action), a.To)
	default:
		return fmt.Sprintf("%s: %s %s -> %s", a.App, strings.ToLower(a.Action), a.From, a.To)
	}
}

func printObjects(line func(string, ...any), indent string, objects []objectPlan) {
	for _, o := range objects {
		why := ""
		if o.Why != "" {
			why = ": " + o.Why
		}
		line("%s%s %s%s", indent, o.Change, o.Object, why)
		if o.Change != "change" {
			continue
		}
		// Without the lines that name two files.
		hunks := o.Diff[max(0, strings.Index(o.Diff, "@@")):]
		for text := range strings.Lines(hunks) {
			line("%s    %s", indent, text)
		}
	}
}

// policyLine tells a policy and where it stands; steps are empty where nothing canaries.
func policyLine(p *environments.Policy, steps []int) string {
	text := fmt.Sprintf("%s, from %s", p.Strategy, p.Source)
	if p.Suspend {
		text += "; suspended"
	}
	switch {
	case p.Strategy != environments.StrategyCanary:
	case p.SkipAnalysis:
		text += "; promoted when ready, without a check"
	case len(steps) == 0:
	case !p.Checked():
		text += fmt.Sprintf("; steps %s, each for at least %s; promoted when ready, without a check",
			percents(steps), p.Analysis.Interval)
	default:
		text += fmt.Sprintf("; steps %s, each for at least %s; rolled back after %s",
			percents(steps), p.Analysis.Interval, counted(p.Analysis.Threshold, "failed check"))
	}
	if hooks := told(p.Asked()); len(hooks) > 0 {
		text += "; webhooks " + strings.Join(hooks, ", ")
	}
	return text
}

// percents tells the weights of steps, such as "10%, 20%, 50%".
func percents(weights []int) string {
	told := make([]string, len(weights))
	for i, w := range weights {
		told[i] = rollout.Percent(w)
	}
	return strings.Join(told, ", ")
}

// hookHosts are the hosts that the webhooks of a policy lead to, which is all that is told of their addresses.
func hookHosts(p environments.Policy) []string {
	var hosts []string
	for _, w := range p.Analysis.Webhooks {
		hosts = append(hosts, w.Host())
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// told are webhooks without what nobody is told.
func told(hooks []environments.Webhook) []string {
	var names []string
	for _, w := range hooks {
		names = append(names, fmt.Sprintf("%s (%s)", w.Name, w.Type))
	}
	return names
}

// counted is "1 failed check" or "5 failed checks".
func counted(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
}

// orNone shortens a commit for people.
func orNone(commit string) string {
	if commit == "" {
		return "nothing"
	}
	return commit[:min(10, len(commit))]
}
