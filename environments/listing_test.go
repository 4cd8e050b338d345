package environments

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// listable is a Lister of a file system. It lists backwards, and reuses the memory of what it gave.
type listable struct {
	hashing
	// fail after so many entries, if not 0; give the last entry twice.
	fail  int
	twice bool
}

func (l listable) List(dir string, each func(name []byte, mode fs.FileMode, hash []byte)) error {
	entries, err := fs.ReadDir(l.MapFS, dir)
	if err != nil {
		return err
	}
	slices.Reverse(entries)
	if l.twice {
		entries = append(entries, entries[len(entries)-1])
	}
	var name, hash []byte
	for i, e := range entries {
		if l.fail > 0 && i == l.fail {
			return errors.New("disk on fire")
		}
		h, err := l.Hash(path.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		name, hash = append(name[:0], e.Name()...), append(hash[:0], h...)
		if e.Type()&fs.ModeSymlink != 0 {
			hash = hash[:0]
		}
		each(name, e.Type(), hash)
	}
	return nil
}

// ownFiles is an environment of two apps with values files of their own, and an object of its own.
func ownFiles() map[string]string {
	return map[string]string{
		"env/Chart.yaml":         "name: env\nversion: 0.0.1\n",
		"env/requirements.yaml":  "dependencies:\n- name: web\n  version: 1.0.0\n  repository: http://charts\n- name: db\n  version: 1.0.0\n  repository: http://charts\n",
		"env/values.yaml":        "web: {a: 1}\nother: 1\n",
		"env/web/values.yaml":    "b: 1\n",
		"env/db/values.yaml":     "c: 1\n",
		"env/templates/own.yaml": "kind: ConfigMap\n",
		"env/README":             "read me\n",
	}
}

func filesOf(texts map[string]string) fstest.MapFS {
	files := fstest.MapFS{}
	for name, text := range texts {
		files[name] = mapFile([]byte(text))
	}
	return files
}

// stands describes an environment with its digests.
func stands(env *Environment, err error) string {
	text := describe(env, err)
	if err == nil {
		for _, app := range env.Apps {
			text += app.Name + " " + app.Digest + "\n"
		}
	}
	return text
}

// listingStates are snapshots that differ in the umbrella's directory: what each changes, and what web becomes.
var listingStates = []struct {
	state, web string
	change     func(files map[string]string)
}{
	{"as it was", `{"a":1,"b":1}`, func(map[string]string) {}},
	{"another version", `{"a":1,"b":1}`, func(f map[string]string) {
		f["env/requirements.yaml"] = strings.Replace(f["env/requirements.yaml"], "1.0.0", "1.0.1", 1)
	}},
	{"changed", `{"a":1,"b":2}`, func(f map[string]string) { f["env/web/values.yaml"] = "b: 2\n" }},
	{"removed", `{"a":1}`, func(f map[string]string) { delete(f, "env/web/values.yaml") }},
	{"removed but for its directory", `{"a":1}`, func(f map[string]string) {
		delete(f, "env/web/values.yaml")
		f["env/web/README"] = ""
	}},
	{"broken", "env/web/values.yaml", func(f map[string]string) { f["env/web/values.yaml"] = "b: [\n" }},
	{"a file", `{"a":1}`, func(f map[string]string) {
		delete(f, "env/web/values.yaml")
		f["env/web"] = "b: 3\n"
	}},
	{"a symbolic link", "env/web: is a symbolic link", func(f map[string]string) {
		delete(f, "env/web/values.yaml")
		f["env/web"] = "-> db"
	}},
	{"a link in its directory", "env/web/values.yaml: is a symbolic link", func(f map[string]string) {
		f["env/web/values.yaml"] = "-> ../db/values.yaml"
	}},
	{"another app added", `{"a":1,"b":1}`, func(f map[string]string) {
		f["env/requirements.yaml"] += "- name: new\n  version: 1.0.0\n  repository: http://charts\n"
		f["env/new/values.yaml"] = "d: 1\n"
	}},
	{"a directory of nobody", `{"a":1,"b":1}`, func(f map[string]string) { f["env/new/values.yaml"] = "d: 1\n" }},
	{"no app", "", func(f map[string]string) { f["env/requirements.yaml"] = "dependencies: []\n" }},
	{"another template", `{"a":1,"b":1}`, func(f map[string]string) {
		f["env/templates/own.yaml"] = "{{ define \"x\" }}{{ end }}\nkind: Secret\n"
	}},
	{"no templates", `{"a":1,"b":1}`, func(f map[string]string) { delete(f, "env/templates/own.yaml") }},
	{"templates is a file", `{"a":1,"b":1}`, func(f map[string]string) {
		delete(f, "env/templates/own.yaml")
		f["env/templates"] = "kind: ConfigMap\n"
	}},
	{"templates is a link", `{"a":1,"b":1}`, func(f map[string]string) {
		delete(f, "env/templates/own.yaml")
		f["env/templates"] = "-> db"
	}},
	{"a template is a link", `{"a":1,"b":1}`, func(f map[string]string) { f["env/templates/own.yaml"] = "-> ../README" }},
	{"another file beside", `{"a":1,"b":1}`, func(f map[string]string) { f["env/README"] = "read me again\n" }},
	{"a link beside", `{"a":1,"b":1}`, func(f map[string]string) { f["env/README"] = "-> values.yaml" }},
	{"moved", `{"a":1,"b":1}`, func(f map[string]string) {
		for name, text := range f {
			delete(f, name)
			f[strings.TrimPrefix(name, "env/")] = text
		}
	}},
}

// TestListingFollows goes from each state of an environment to each other and back. A Loader that has seen other states
// says the same as a fresh one, whatever the file system knows.
func TestListingFollows(t *testing.T) {
	kinds := map[string]func(fstest.MapFS) fs.FS{
		"plain":  func(files fstest.MapFS) fs.FS { return files },
		"Hasher": func(files fstest.MapFS) fs.FS { return hashing{files} },
		"Lister": func(files fstest.MapFS) fs.FS { return listable{hashing: hashing{files}} },
	}
	var snapshots []fstest.MapFS
	var want []string
	for _, s := range listingStates {
		texts := ownFiles()
		s.change(texts)
		files := filesOf(texts)
		env, err := (&Loader{Environment: "staging"}).Load(files, ".")
		snapshots, want = append(snapshots, files), append(want, stands(env, err))
		if web := describe(env, err); !strings.Contains(web, s.web) {
			t.Errorf("%s: web is not %s:\n%s", s.state, s.web, web)
		}
	}
	for kind, of := range kinds {
		t.Run(kind, func(t *testing.T) {
			l := &Loader{Environment: "staging"}
			rng := rand.New(rand.NewPCG(1, 2))
			last := 0
			visit := func(i int) {
				if got := stands(l.Load(of(snapshots[i]), ".")); got != want[i] {
					t.Fatalf("%s, after %s:\n%s\nwant:\n%s", listingStates[i].state, listingStates[last].state, got, want[i])
				}
				last = i
			}
			for i := range snapshots {
				for j := range snapshots {
					visit(i)
					visit(j)
				}
			}
			for range 200 {
				visit(rng.IntN(len(snapshots)))
			}
		})
	}
}

// TestListingFails: a listing that stops in the middle is an error, and nothing of it is taken for the whole.
func TestListingFails(t *testing.T) {
	before, after := ownFiles(), ownFiles()
	delete(after, "env/web/values.yaml")
	after["env/db/values.yaml"] = "c: 2\n"
	for n := 1; n < 5; n++ {
		l := &Loader{Environment: "staging"}
		was := stands(l.Load(listable{hashing: hashing{filesOf(before)}}, "."))
		if _, err := l.Load(listable{hashing: hashing{filesOf(after)}, fail: n}, "."); err == nil {
			t.Fatalf("failed after %d entries: no error", n)
		}
		if _, err := l.Load(listable{hashing: hashing{filesOf(after)}, twice: true}, "."); err == nil {
			t.Fatal("two entries of one name: no error")
		}
		if got := stands(l.Load(listable{hashing: hashing{filesOf(before)}}, ".")); got != was {
			t.Errorf("before, after a failure: %s\nwant: %s", got, was)
		}
		want := stands((&Loader{Environment: "staging"}).Load(filesOf(after), "."))
		if got := stands(l.Load(listable{hashing: hashing{filesOf(after)}}, ".")); got != want {
			t.Errorf("after, after a failure: %s\nwant: %s", got, want)
		}
	}
}

// TestUnchangedFilesAreReused: another version of one app parses no values file again, nor does another value of one
// app that of another.
func TestUnchangedFilesAreReused(t *testing.T) {
	l := &Loader{Environment: "staging"}
	load := func(name, text string) (web, db *valuesDoc) {
		texts := ownFiles()
		texts[name] = text
		env := mustLoad(t, l, listable{hashing: hashing{filesOf(texts)}})
		return env.Apps[0].origin.doc, env.Apps[1].origin.doc
	}
	web, db := load("sluice.yaml", "")
	webBumped, dbBumped := load("env/requirements.yaml", strings.Replace(ownFiles()["env/requirements.yaml"], "1.0.0", "2.0.0", 1))
	if web != webBumped || db != dbBumped {
		t.Error("a version: values files were parsed again")
	}
	if webChanged, dbSame := load("env/web/values.yaml", "b: 2\n"); webChanged == web || dbSame != db {
		t.Errorf("a value: web was parsed again: %v, db: %v", webChanged != web, dbSame != db)
	}
}

// TestDigestOfMany: a digest does not depend on how it was gathered, and may be asked for on the way.
func TestDigestOfMany(t *testing.T) {
	var all strings.Builder
	d := newDigest()
	for i := range 3000 {
		part := strings.Repeat("x", i%7)
		d.add(part)
		fmt.Fprintf(&all, "%d:%s", len(part), part)
		if i%100 == 0 || i == 2999 {
			if want := fmt.Sprintf("%x", sha256.Sum256([]byte(all.String()))); d.String() != want {
				t.Fatalf("after %d strings: %s, want %s", i+1, d, want)
			}
		}
	}
}
