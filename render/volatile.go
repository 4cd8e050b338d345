package render

import (
	"regexp"
	"text/template/parse"

	"helm.sh/helm/v3/pkg/chart"
)

// volatile are Helm's template functions whose results differ from run to run: random numbers, keys, the clock.
var volatile = map[string]bool{
	"randAlphaNum": true, "randAlpha": true, "randAscii": true, "randNumeric": true, "randBytes": true, "randInt": true,
	"shuffle": true, "uuidv4": true, "htpasswd": true, "bcrypt": true, "encryptAES": true,
	"genPrivateKey": true, "genCA": true, "genCAWithKey": true,
	"genSelfSignedCert": true, "genSelfSignedCertWithKey": true, "genSignedCert": true, "genSignedCertWithKey": true,
	"now": true, "ago": true,
}

// unordered are functions that list a map in random order, unless a function of ordering is in the same pipeline.
var (
	unordered = map[string]bool{"keys": true, "values": true}
	ordering  = map[string]bool{"sortAlpha": true, "len": true, "has": true}
)

// collectVolatile adds the volatile functions that a chart or its subcharts call.
func collectVolatile(c *chart.Chart, found map[string]bool) {
	for _, t := range c.Templates {
		if t != nil {
			findVolatile(string(t.Data), found)
		}
	}
	// Text in values can be a template too, by way of tpl.
	findVolatileInValues(c.Values, found)
	for _, d := range c.Dependencies() {
		collectVolatile(d, found)
	}
}

// mayBeVolatile spares the parser most templates.
var mayBeVolatile = regexp.MustCompile(`\b(rand[A-Z]\w+|shuffle|uuidv4|htpasswd|bcrypt|encryptAES|gen[A-Z]\w+|now|ago|keys|values)\b`)

// findVolatile adds the volatile functions that a template calls. A template that does not parse adds none: it will
// not render either.
func findVolatile(text string, found map[string]bool) {
	if !mayBeVolatile.MatchString(text) {
		return
	}
	trees := map[string]*parse.Tree{}
	t := parse.New("t")
	t.Mode = parse.SkipFuncCheck
	if _, err := t.Parse(text, "", "", trees); err != nil {
		return
	}
	for _, tree := range trees {
		if tree.Root != nil {
			walkTemplate(tree.Root, false, found)
		}
	}
}

func findVolatileInValues(v any, found map[string]bool) {
	switch v := v.(type) {
	case string:
		findVolatile(v, found)
	case map[string]any:
		for _, e := range v {
			findVolatileInValues(e, found)
		}
	case []any:
		for _, e := range v {
			findVolatileInValues(e, found)
		}
	}
}

// walkTemplate visits every function name in a parsed template; ordered says that a pipeline around it sorts.
func walkTemplate(n parse.Node, ordered bool, found map[string]bool) {
	switch n := n.(type) {
	case *parse.ListNode:
		if n == nil {
			return
		}
		for _, e := range n.Nodes {
			walkTemplate(e, ordered, found)
		}
	case *parse.ActionNode:
		walkTemplate(n.Pipe, ordered, found)
	case *parse.TemplateNode:
		walkTemplate(n.Pipe, ordered, found)
	case *parse.IfNode:
		walkBranch(&n.BranchNode, found)
	case *parse.RangeNode:
		walkBranch(&n.BranchNode, found)
	case *parse.WithNode:
		walkBranch(&n.BranchNode, found)
	case *parse.PipeNode:
		walkPipe(n, ordered, found)
	case *parse.CommandNode:
		for _, arg := range n.Args {
			walkTemplate(arg, ordered, found)
		}
	case *parse.ChainNode:
		walkTemplate(n.Node, ordered, found)
	case *parse.IdentifierNode:
		if volatile[n.Ident] || unordered[n.Ident] && !ordered {
			found[n.Ident] = true
		}
	}
}

func walkBranch(n *parse.BranchNode, found map[string]bool) {
	walkTemplate(n.Pipe, false, found)
	walkTemplate(n.List, false, found)
	walkTemplate(n.ElseList, false, found)
}

func walkPipe(n *parse.PipeNode, ordered bool, found map[string]bool) {
	if n == nil {
		return
	}
	for _, cmd := range n.Cmds {
		if id, ok := cmd.Args[0].(*parse.IdentifierNode); ok && ordering[id.Ident] {
			ordered = true
		}
	}
	for _, cmd := range n.Cmds {
		walkTemplate(cmd, ordered, found)
	}
}
