package render

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/client-go/dynamic"

	"github.com/sluice-cd/sluice/render/lookup"
)

// What the templates of one rendering may ask of the cluster.
const (
	maxQuestions = 1000
	// maxFound bounds what they are told, in bytes.
	maxFound = 8 << 20
	// lookupTime is how long one answer may take.
	lookupTime = 10 * time.Second
)

// found is an answer on its way to a worker: objects in JSON, or why there is none.
type found struct {
	Objects [][]byte
	Fault   string
	// Offline: there is no cluster. Then a list is nothing too, as it is for Helm, and not a list of nothing.
	Offline bool
}

// inquiry is all that the templates of one rendering ask, and are told. What they ask twice is answered alike.
type inquiry struct {
	look lookup.Func
	told map[lookup.Question]lookup.Found
	// questions in the order in which they came first.
	questions   []lookup.Question
	count, size int
}

// answer never fails: what stands against an answer is the worker's to say, which knows the template.
func (i *inquiry) answer(ctx context.Context, q lookup.Question) found {
	if i.count++; i.count > maxQuestions {
		return found{Fault: (&LimitError{What: "number of lookups", Limit: maxQuestions, Count: true}).Error()}
	}
	what, err := i.ask(ctx, q)
	if err != nil {
		return found{Fault: fmt.Sprintf("looking up %s: %v", q, err)}
	}
	out := found{Offline: i.look == nil}
	for _, o := range what.Objects {
		text, err := json.Marshal(o.Object)
		if err != nil {
			return found{Fault: fmt.Sprintf("reading %s: %v", q, err)}
		}
		out.Objects, i.size = append(out.Objects, text), i.size+len(text)
	}
	if i.size > maxFound {
		return found{Fault: (&LimitError{What: "what the templates look up", Limit: maxFound}).Error()}
	}
	return out
}

func (i *inquiry) ask(ctx context.Context, q lookup.Question) (lookup.Found, error) {
	if what, known := i.told[q]; known {
		return what, nil
	}
	what := lookup.Found{Withheld: "there is no cluster to ask"}
	if i.look != nil {
		ctx, cancel := context.WithTimeout(ctx, lookupTime)
		defer cancel()
		var err error
		if what, err = i.look(ctx, q); err != nil {
			return what, err
		}
	}
	if i.told == nil {
		i.told = map[lookup.Question]lookup.Found{}
	}
	i.told[q], i.questions = what, append(i.questions, q)
	return what, nil
}

// foreign is what the release depends on, in JSON: the objects of others that were found, without what changes by itself.
func (i *inquiry) foreign() ([]byte, error) {
	var all []any
	for _, q := range i.questions {
		for _, o := range i.told[q].Objects {
			if o.Own {
				continue
			}
			content := map[string]any{}
			for k, v := range o.Object {
				if k != "metadata" && k != "status" {
					content[k] = v
				}
			}
			all = append(all, q, o.GetName(), content)
		}
	}
	if all == nil {
		return nil, nil
	}
	return json.Marshal(all)
}

// secrets are those that the templates were told of.
func (i *inquiry) secrets() (all []*unstructured.Unstructured) {
	for _, q := range i.questions {
		for _, o := range i.told[q].Objects {
			if o.GetKind() == "Secret" {
				all = append(all, o.Unstructured)
			}
		}
	}
	return all
}

func (i *inquiry) warnings() (all []string) {
	for _, q := range i.questions {
		if why := i.told[q].Withheld; why != "" {
			all = append(all, fmt.Sprintf("templates look up %s and are told of nothing: %s", q, why))
		}
	}
	return all
}

// asker is how a worker's templates ask. Helm's engine takes what answers as a client of the API server.
type asker func(lookup.Question) (found, error)

var _ dynamic.NamespaceableResourceInterface = asking{}

// GetClientFor implements engine.ClientProvider.
func (a asker) GetClientFor(apiVersion, kind string) (client dynamic.NamespaceableResourceInterface, namespaced bool, err error) {
	return asking{ask: a, question: lookup.Question{APIVersion: apiVersion, Kind: kind}}, true, nil
}

// asking is a client of which lookup uses no more than these methods.
type asking struct {
	dynamic.NamespaceableResourceInterface
	ask      asker
	question lookup.Question
}

// Namespace implements dynamic.NamespaceableResourceInterface.
func (a asking) Namespace(name string) dynamic.ResourceInterface {
	a.question.Namespace = name
	return a
}

// Get implements dynamic.ResourceInterface.
func (a asking) Get(_ context.Context, name string, _ metav1.GetOptions, _ ...string) (*unstructured.Unstructured, error) {
	a.question.Name = name
	all, err := a.objects()
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: a.question.Kind}, name)
	}
	return &all[0], nil
}

// List implements dynamic.ResourceInterface.
func (a asking) List(context.Context, metav1.ListOptions) (*unstructured.UnstructuredList, error) {
	all, err := a.objects()
	head := map[string]any{"apiVersion": a.question.APIVersion, "kind": a.question.Kind + "List", "metadata": map[string]any{}}
	return &unstructured.UnstructuredList{Object: head, Items: all}, err
}

func (a asking) objects() ([]unstructured.Unstructured, error) {
	f, err := a.ask(a.question)
	if err != nil {
		return nil, err
	}
	switch {
	case f.Fault != "":
		return nil, errors.New(f.Fault)
	case f.Offline:
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: a.question.Kind}, a.question.Name)
	}
	all := make([]unstructured.Unstructured, len(f.Objects))
	for i, text := range f.Objects {
		if err := utiljson.Unmarshal(text, &all[i].Object); err != nil {
			return nil, fmt.Errorf("reading what was looked up: %w", err)
		}
	}
	return all, nil
}
