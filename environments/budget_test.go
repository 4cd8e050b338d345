package environments

import (
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"
)

// bomb are files that are small in git and would take gigabytes once they are read.
func bombs() map[string]fstest.MapFS {
	list := "dependencies:\n"
	own := fstest.MapFS{"env/Chart.yaml": {Data: []byte("name: env\nversion: 0.0.1\n")}}
	fill := func(n int) []byte { return []byte("a: [" + strings.Repeat("{},", n) + "]\n") }
	for i := range 10 {
		name := fmt.Sprintf("app%d", i)
		list += "- {name: " + name + ", version: 1.0.0, repository: https://charts.example.com}\n"
		own["env/"+name+"/values.yaml"] = &fstest.MapFile{Data: fill(90_000)}
	}
	own["env/requirements.yaml"] = &fstest.MapFile{Data: []byte(list)}
	with := func(name string, data []byte) fstest.MapFS {
		return fstest.MapFS{
			"env/Chart.yaml":        {Data: []byte("name: env\nversion: 0.0.1\n")},
			"env/requirements.yaml": {Data: []byte("dependencies: []\n")}, name: {Data: data},
		}
	}
	return map[string]fstest.MapFS{
		"one file":    with("env/values.yaml", fill(1_100_000)),
		"a long file": with("env/values.yaml", []byte("a: "+strings.Repeat("x", 5<<20))),
		"settings":    with("sluice.yaml", fill(1_100_000)),
		"the list":    with("env/requirements.yaml", []byte("dependencies: ["+strings.Repeat("{},", 1_100_000)+"]")),
		"lines":       with("env/values.yaml", []byte("a:\n"+strings.Repeat("- \n", 1_100_000))),
		"many files":  own,
	}
}

// An environment that would take more memory than one may is refused before it does, names the file, and can be read again
// when it is mended.
func TestBudget(t *testing.T) {
	for name, files := range bombs() {
		l := &Loader{Environment: "production"}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		env, err := l.Load(files, ".")
		runtime.ReadMemStats(&after)
		var fault *Fault
		if err == nil && len(env.Apps) > 0 {
			for _, app := range env.Apps {
				err = errors.Join(err, app.Fault)
			}
		}
		if !errors.As(err, &fault) || fault.File == "" || !strings.Contains(fault.Expected, "at most") {
			t.Errorf("%s: %v", name, err)
		}
		if used := after.TotalAlloc - before.TotalAlloc; name != "many files" && used > 64<<20 {
			t.Errorf("%s: allocated %d MiB", name, used>>20)
		}
		files["env/values.yaml"] = &fstest.MapFile{Data: []byte("{}\n")}
		files["env/requirements.yaml"] = &fstest.MapFile{Data: []byte("dependencies: []\n")}
		delete(files, "sluice.yaml")
		if _, err := l.Load(files, "."); err != nil {
			t.Errorf("%s, mended: %v", name, err)
		}
	}
}

// What snapshots before had counts no more when it has gone.
func TestBudgetOfOneSnapshot(t *testing.T) {
	l := &Loader{Environment: "production"}
	for i := range 4 {
		dir := fmt.Sprintf("env/app%d", i)
		files := fstest.MapFS{
			"env/Chart.yaml":        {Data: []byte("name: env\nversion: 0.0.1\n")},
			"env/requirements.yaml": {Data: []byte(fmt.Sprintf("dependencies: [{name: app%d, version: 1.0.0, repository: 'https://charts.example.com'}]\n", i))},
			dir + "/values.yaml":    {Data: []byte("a: [" + strings.Repeat("1,", 400_000) + "]\n")},
		}
		env, err := l.Load(files, ".")
		if err != nil || len(env.Apps) != 1 || env.Apps[0].Fault != nil {
			t.Fatalf("snapshot %d: %v, %+v", i, err, env)
		}
	}
}

// panicking is a file system that brings the loader to panic.
type panicking struct{}

func (panicking) Open(string) (fs.File, error) { panic("boom") }

// A panic is an error of the environment, and what is read next is read anew.
func TestPanic(t *testing.T) {
	l := &Loader{Environment: "production"}
	good := fstest.MapFS{
		"env/Chart.yaml":        {Data: []byte("name: env\nversion: 0.0.1\n")},
		"env/requirements.yaml": {Data: []byte("dependencies: []\n")},
	}
	if _, err := l.Load(panicking{}, "."); err == nil || !strings.Contains(err.Error(), "boom") {
		t.Errorf("error: %v", err)
	}
	if _, err := l.Load(good, "."); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}
