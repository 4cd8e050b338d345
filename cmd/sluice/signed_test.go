package main

import (
	"os"
	"path/filepath"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/rogpeppe/go-internal/testscript"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/provenance"

	"github.com/sluice-cd/sluice/test/bed/chartrepo"
)

// serveCharts serves chart web 1.0.0, which nobody has signed, and says where in the environment: chartserver DIRECTORY. Beside it
// are the keyrings ours.gpg and theirs.gpg, and what their keys would sign: ours.prov and theirs.prov.
func serveCharts(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: chartserver directory")
	}
	dir := ts.MkAbs(args[0])
	s, err := chartrepo.New(chartrepo.Options{Dir: dir})
	ts.Check(err)
	ts.Check(s.Start())
	ts.Defer(func() { ts.Check(s.Stop()) })
	c, err := loader.LoadFiles([]*loader.BufferedFile{
		{Name: "Chart.yaml", Data: []byte("apiVersion: v2\nname: web\nversion: 1.0.0\n")},
		{Name: "templates/web.yaml", Data: []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\n")},
	})
	ts.Check(err)
	ts.Check(s.AddChart(c))
	for _, who := range []string{"ours", "theirs"} {
		ts.Check(signAs(who, dir, c))
	}
	ts.Setenv("CHARTS_URL", s.URL())
}

func signAs(who, dir string, c *chart.Chart) error {
	key, err := openpgp.NewEntity(who, "", who+"@example.com", nil)
	if err != nil {
		return err
	}
	keyring, err := os.Create(filepath.Join(dir, who+".gpg"))
	if err != nil {
		return err
	}
	defer keyring.Close()
	if err := key.Serialize(keyring); err != nil {
		return err
	}
	text, err := (&provenance.Signatory{Entity: key}).ClearSign(filepath.Join(dir, c.Name()+"-"+c.Metadata.Version+".tgz"))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, who+".prov"), []byte(text), 0o600)
}
