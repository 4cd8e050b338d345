// Package mask keeps what an environment gives an app out of the texts that leave the process: faults, logs, commits, what a
// command prints. A value is known by itself and not by the words around it, so that it does not matter which library repeats
// it, or how.
//
// What is masked: the strings and numbers of the values that the environment gives, and all data of Secrets, from 4 characters
// on, as they are and in the spellings that they take on their way (quoted by Go, JSON and YAML, escaped for URLs, in base64
// anywhere in a longer text, in another case, a line of several); besides, whatever a text has in quotes that is a piece of such
// a value.
//
// What is not, since a text has to be understood: what the chart's own default values say, which everybody can read; names (of
// the release, its charts, versions, namespaces, objects, images, and keys of values); the app's policy under canary:, which
// plans and the audit log tell, but for the addresses and metadata of its webhooks; and a few words of Kubernetes and of programs' settings. A short word, and a short number, is
// masked where it stands alone: a value of "prod" does not mangle "production".
package mask

import (
	"maps"
	"strings"
	"sync"

	"helm.sh/helm/v3/pkg/chart"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sluice-cd/sluice/gitsync/redact"
	"github.com/sluice-cd/sluice/render/objects"
)

// Mark stands where a value was.
const Mark = "***"

// shortest is the number of characters of a value below which it is left alone: it is in every second word.
const shortest = 4

// longestRead bounds the text that is looked at, longestKept what is kept of a longer one: a value that the end cuts off is not
// known any more.
const (
	longestRead = 16 << 10
	longestKept = 12 << 10
)

// policyKey is where Flagger's charts have the policy in an app's values.
const policyKey = "canary"

// Source is what a Mask knows of an app.
type Source struct {
	// Given are the values that the environment gives.
	Given []map[string]any
	// Chart has the defaults that everybody may read, with its subcharts; nil: nothing is public, as of a chart that is the
	// environment's own.
	Chart *chart.Chart
	// Names are those that faults need: of the app, its release, its namespace, its version.
	Names []string
	// Objects that were rendered. Of their Secrets the data is masked; their names are not.
	Objects []*unstructured.Unstructured
	// Settings masks what the objects hold for programs to read as well, Secret or not. It is for objects of which nobody
	// knows any more what the environment gave.
	Settings bool
}

// Mask takes the values of an app out of texts. It costs nothing until there is a text. nil masks nothing. It is safe for
// concurrent use.
type Mask struct {
	words func() *words
	next  *Mask
}

// New returns a Mask. What the source refers to must not be changed afterwards.
func New(s Source) *Mask {
	return &Mask{words: sync.OnceValue(func() *words { return s.words() })}
}

// With is a Mask that takes out what m does, and what a further source holds.
func (m *Mask) With(s Source) *Mask {
	out := New(s)
	out.next = m
	return out
}

// Text is a text without the values.
func (m *Mask) Text(s string) string {
	if m == nil || s == "" {
		return s
	}
	end := len(s)
	if end > longestRead {
		s, end = s[:longestRead], longestKept
	}
	hidden := make([]bool, len(s))
	found := false
	for at := m; at != nil; at = at.next {
		found = at.words().find(s, hidden) || found
	}
	if !found && end == len(s) {
		return s
	}
	var b strings.Builder
	for i := range end {
		switch {
		case !hidden[i]:
			b.WriteByte(s[i])
		case i == 0 || !hidden[i-1]:
			b.WriteString(Mark)
		}
	}
	if end < len(s) {
		b.WriteString("...")
	}
	return b.String()
}

// Texts is Text of each.
func (m *Mask) Texts(list []string) []string {
	if m == nil || len(list) == 0 {
		return list
	}
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = m.Text(s)
	}
	return out
}

// Error is an error without the values in its text. What is behind it can still be asked for.
func (m *Mask) Error(err error) error {
	if m == nil || err == nil {
		return err
	}
	was := err.Error()
	if text := m.Text(was); text != was {
		return &redact.Error{Text: text, Err: err}
	}
	return err
}

// words gathers what is to be masked.
func (s Source) words() *words {
	names := newWords(nil)
	names.add(commonWords...)
	names.add(s.Names...)
	for _, o := range s.Objects {
		if objects.GroupKind(o) != objects.Secret {
			names.addNames(o.Object)
		}
	}
	// A Secret's data is nobody's to read, also where it is a default of the chart.
	secret := newWords(names.folded())
	for _, given := range s.Given {
		names.addKeys(given)
		names.addAll(public(given[policyKey]))
	}
	names.addChart(s.Chart)
	w := newWords(names.folded())
	for _, given := range s.Given {
		w.addAll(given)
	}
	for _, o := range s.Objects {
		switch {
		case objects.GroupKind(o) == objects.Secret:
			secret.addSecret(o.Object)
		case s.Settings:
			w.addSettings(o.Object)
		}
	}
	maps.Copy(w.text, secret.text)
	w.spell()
	return w
}

// public is a policy without what its webhooks are asked, whole or by whom: an address and metadata are where people put tokens.
func public(policy any) any {
	switch v := policy.(type) {
	case map[string]any:
		told := make(map[string]any, len(v))
		for key, value := range v {
			if hooks, ok := value.([]any); ok && key == "webhooks" {
				value = withoutRequests(hooks)
			}
			told[key] = public(value)
		}
		return told
	default:
		return policy
	}
}

func withoutRequests(hooks []any) []any {
	told := make([]any, 0, len(hooks))
	for _, h := range hooks {
		hook, ok := h.(map[string]any)
		if !ok {
			continue
		}
		hook = maps.Clone(hook)
		delete(hook, "url")
		delete(hook, "metadata")
		told = append(told, hook)
	}
	return told
}

// commonWords are values by which nothing is told, and without which no fault could be read: the words of Kubernetes' fields and
// types, of programs' settings, and the ports that everybody uses.
var commonWords = strings.Fields(`
	true false null none auto default enabled disabled
	string number integer boolean object array value values name names data spec status metadata kind template templates chart
	error errors line invalid expected field required
	debug info warn warning fatal panic trace json text plain console
	production staging development preview test testing local prod stage
	http https grpc tcp udp sctp web metrics health healthz ready readyz
	Always IfNotPresent Never OnFailure ClusterIP NodePort LoadBalancer ExternalName RollingUpdate Recreate OnDelete
	Opaque Deployment StatefulSet DaemonSet Service ConfigMap Secret Ingress Pod Container Job CronJob
	ReadWriteOnce ReadOnlyMany ReadWriteMany Prefix Exact ImplementationSpecific
	nginx istio linkerd traefik standard cluster
	3000 3306 4317 5000 5432 5672 6379 8000 8080 8081 8443 8888 9000 9090 9092 9100 9200 27017
	1000 65534 65535`)
