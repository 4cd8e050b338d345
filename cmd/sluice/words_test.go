package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// strange are words that users stumble over, and what to write in their place.
var strange = []struct {
	pattern *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`([0-9]|%d) %%?([^a-z%]|$)`), "50%, in code by rollout.Percent"},
	{regexp.MustCompile(`stands twice`), "duplicate"},
	{regexp.MustCompile(`otherwise than`), "differently from"},
	{regexp.MustCompile(`\bis no name\b`), "invalid name"},
	{regexp.MustCompile(`\bis told with\b`), "is reported with"},
	{regexp.MustCompile(`asked for by`), "triggered by, requested by"},
	{regexp.MustCompile(`no pod sees`), "pods unchanged"},
	{regexp.MustCompile(`\bsurely\b`), "clearly"},
	{regexp.MustCompile(`take(s|n)? (the|its) place`), "replace"},
	{regexp.MustCompile(`\bmend (it|the)\b`), "fix"},
}

// TestWords: what users read is in the words of the field, in documents and in the texts of programs.
func TestWords(t *testing.T) {
	root := filepath.Join("..", "..")
	for _, top := range []string{"README.md", "docs", "cmd", "deploy", "test/demo", "environments", "gitsync", "render", "analysis", "reconcile"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			for _, text := range readable(t, path) {
				for _, s := range strange {
					if found := s.pattern.FindString(text); found != "" {
						t.Errorf("%s: %q in %.200q; write %s", path, found, text, s.instead)
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// readable are the texts of a file that users read: lines of a document, and texts of a program.
func readable(t *testing.T, path string) (texts []string) {
	switch {
	case strings.Contains(path, "contributing") || strings.HasSuffix(path, "architecture.md"): // for those who know the code
	case strings.HasSuffix(path, ".md"):
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		texts = strings.Split(string(data), "\n")
	case strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go"):
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if text, ok := n.(*ast.BasicLit); ok && text.Kind == token.STRING {
				texts = append(texts, text.Value)
			}
			return true
		})
	}
	return texts
}
